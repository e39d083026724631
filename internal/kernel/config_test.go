package kernel

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"
)

func TestConfigBounds(t *testing.T) {
	for text, want := range map[string][]uint64{
		"{exp2: {min: 1us, count: 3}}":                         {1000, 2000, 4000},
		"{linear: {start: 1ms, width: 500us, count: 3}}":       {1_000_000, 1_500_000, 2_000_000},
		"{bounds: [250ns, 1.5ms, 1m]}":                         {250, 1_500_000, 60_000_000_000},
		"{exponential: {schema: 0, min: 1s, max: 8s}}":         {1_000_000_000, 2_000_000_000, 4_000_000_000, 8_000_000_000},
		"{exponential: {schema: 1, min: 2us, max: 3us}}":       {1907, 2697, 3814},
		"{exponential: {schema: 3, min: 16ns, max: 2562047h}}": nil,
		"{exp2: {min: 1ns, count: 63}}":                        nil,
		"{linear: {start: 1ns, width: 1ns, count: 512}}":       nil,
		"{linear: {start: 24h, width: 2400h, count: 512}}":     nil,
	} {
		config := SourceConfig{Name: "softirq"}
		if err := yaml.Unmarshal([]byte(text), &config.Buckets); err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		if err := config.Validate(); err != nil {
			t.Errorf("%s: %v", text, err)
		}
		got := config.bounds()
		if len(got) > MaxBounds {
			t.Errorf("%s: %d bounds", text, len(got))
		}
		if want != nil && !slices.Equal(got, want) {
			t.Errorf("%s: bounds %d, want %d", text, got, want)
		}
		if !slices.IsSorted(got) || len(slices.Compact(slices.Clone(got))) != len(got) {
			t.Errorf("%s: bounds %d do not ascend", text, got)
		}
	}
	native := (&SourceConfig{Name: "nfs", Histogram: Exponential}).bounds()
	if len(native) != 48+186+1 || native[0] != 100 || native[len(native)-1] != 64_000_000_000 {
		t.Errorf("default bounds of exponential histograms are %d", native)
	}
	standard := (&SourceConfig{Name: "nfs"}).bounds()
	if len(standard) != 27 || standard[0] != 1000 || standard[26] != 67_108_864_000 {
		t.Errorf("default bounds are %d", standard)
	}
}

func TestConfigErrors(t *testing.T) {
	count := func(n int) *BucketsConfig {
		return &BucketsConfig{Exp2: &Exp2Config{Min: Duration(time.Microsecond), Count: n}}
	}
	many := make([]Duration, MaxBounds+1)
	for i := range many {
		many[i] = Duration(i + 1)
	}
	negative := Duration(-time.Second)
	exponential := func(schema int, low, high time.Duration) *BucketsConfig {
		return &BucketsConfig{Exponential: &ExponentialConfig{Schema: schema, Min: Duration(low), Max: Duration(high)}}
	}
	for _, test := range []struct {
		config SourceConfig
		key    string
		text   string
	}{
		{SourceConfig{Name: "nfs", Histogram: "native"}, "histogram", `unknown form "native" (one of classic, custom and exponential)`},
		{
			SourceConfig{Name: "nfs", Histogram: Exponential, Buckets: count(3)},
			"buckets",
			"exponential histograms need exponential buckets (write buckets: {exponential: {schema: 3, min: 100ns, max: 64s}}, or leave the key out)",
		},
		{SourceConfig{Name: "nfs", Buckets: exponential(4, 1000, 2000)}, "buckets.exponential.schema", "4 is not between 0 and 3 (2^schema buckets to each power of two)"},
		{SourceConfig{Name: "nfs", Buckets: exponential(0, 15, 2000)}, "buckets.exponential.min", "15ns is below 16ns"},
		{SourceConfig{Name: "nfs", Buckets: exponential(0, 1000, 1000)}, "buckets.exponential.max", "1µs is not above min, 1µs"},
		{SourceConfig{}, "name", "a source needs a name (one of " + strings.Join(Names(), ", ") + ")"},
		{SourceConfig{Name: "nsf"}, "name", `unknown source "nsf" (known are ` + strings.Join(Names(), ", ") + ")"},
		{SourceConfig{Name: "nfs", MaxLabelSets: 5}, "max_label_sets", "source nfs has a fixed list of label sets and takes no bound (remove the key)"},
		{SourceConfig{Name: "block", MaxLabelSets: -1}, "max_label_sets", "-1 is not between 1 and 65536"},
		{SourceConfig{Name: "nfs", Labels: []string{"mount"}, MaxLabelSets: 65537}, "max_label_sets", "65537 is not between 1 and 65536"},
		{SourceConfig{Name: "nfs", Labels: []string{"mount", "device"}}, "labels[1]", `source nfs has no label "device" to choose (one of cgroup, mount, server)`},
		{SourceConfig{Name: "nfs", Labels: []string{"mount", "mount"}}, "labels[1]", "label mount is listed twice"},
		{SourceConfig{Name: "softirq", Labels: []string{"cgroup"}}, "labels[0]", "source softirq has no labels to choose (remove the key)"},
		{SourceConfig{Name: "softirq", LabelSetsExpire: new(Duration)}, "label_sets_expire", "source softirq has a fixed list of label sets, which stay (remove the key)"},
		{SourceConfig{Name: "block", LabelSetsExpire: &negative}, "label_sets_expire", "-1s is negative (0s: label sets stay)"},
		{SourceConfig{Name: "nfs", Allow: []string{"read"}}, "allow", "source nfs has no allow list (remove the key)"},
		{SourceConfig{Name: "tcp_retransmit", Buckets: count(3)}, "buckets", "source tcp_retransmit has no histograms (remove the key)"},
		{SourceConfig{Name: "syscalls", Allow: []string{}}, "allow", "the list is empty (remove the key for the default list, or the source to time no system call)"},
		{SourceConfig{Name: "syscalls", Allow: []string{"read", "exit_group"}}, "allow[1]", "system call exit_group never returns, so it has no latency (remove it)"},
		{SourceConfig{Name: "syscalls", Allow: []string{"read", "read"}}, "allow[1]", "system call read is listed twice"},
		{SourceConfig{Name: "nfs", FileSystems: []string{"ext4"}}, "filesystems", "source nfs does not tell file systems apart (remove the key)"},
		{
			SourceConfig{Name: "filesystem", FileSystems: []string{}},
			"filesystems",
			"the list is empty (remove the key for all of ext4, xfs, btrfs, f2fs, fuse, overlay, or the source to time none)",
		},
		{
			SourceConfig{Name: "filesystem", FileSystems: []string{"ext4", "ntfs"}},
			"filesystems[1]",
			`unknown file system "ntfs" (known are ext4, xfs, btrfs, f2fs, fuse, overlay)`,
		},
		{SourceConfig{Name: "filesystem", FileSystems: []string{"xfs", "ext4", "xfs"}}, "filesystems[2]", "file system xfs is listed twice"},
		{SourceConfig{Name: "nfs", Buckets: &BucketsConfig{}}, "buckets", "exactly one of exp2, linear, exponential and bounds is needed, not 0"},
		{SourceConfig{Name: "nfs", Buckets: &BucketsConfig{Exp2: &Exp2Config{}, Linear: &LinearConfig{}}}, "buckets", "exactly one of exp2, linear, exponential and bounds is needed, not 2"},
		{SourceConfig{Name: "nfs", Buckets: count(0)}, "buckets.exp2.count", "0 buckets (between 1 and 512 are possible)"},
		{SourceConfig{Name: "nfs", Buckets: count(513)}, "buckets.exp2.count", "513 buckets (between 1 and 512 are possible)"},
		{SourceConfig{Name: "nfs", Buckets: count(64)}, "buckets.exp2.count", "63 doublings of 1µs pass the largest duration, 292 years"},
		{SourceConfig{Name: "nfs", Buckets: &BucketsConfig{Exp2: &Exp2Config{Count: 3}}}, "buckets.exp2.min", "0s is not above zero"},
		{SourceConfig{Name: "nfs", Buckets: &BucketsConfig{Linear: &LinearConfig{Start: 1, Count: 3}}}, "buckets.linear.width", "0s is not above zero"},
		{SourceConfig{Name: "nfs", Buckets: &BucketsConfig{Linear: &LinearConfig{Width: 1, Count: 3}}}, "buckets.linear.start", "0s is not above zero"},
		{SourceConfig{Name: "nfs", Buckets: &BucketsConfig{Bounds: many}}, "buckets.bounds", "513 buckets (between 1 and 512 are possible)"},
		{SourceConfig{Name: "nfs", Buckets: &BucketsConfig{Bounds: []Duration{0}}}, "buckets.bounds[0]", "0s is not above zero"},
		{SourceConfig{Name: "nfs", Buckets: &BucketsConfig{Bounds: []Duration{5, 5}}}, "buckets.bounds[1]", "5ns is not above the bound before it, 5ns (bounds must ascend)"},
	} {
		err := test.config.Validate()
		var key *KeyError
		if !errors.As(err, &key) {
			t.Errorf("%+v: %v is no KeyError", test.config, err)
			continue
		}
		if key.Key != test.key || key.Err.Error() != test.text {
			t.Errorf("%+v:\n got %s: %s\nwant %s: %s", test.config, key.Key, key.Err, test.key, test.text)
		}
	}
}

// The table of system calls that the default list is checked against has every call of the list on some architecture.
func TestDefaultSyscalls(t *testing.T) {
	names := DefaultSyscalls()
	if len(names) < 40 || !slices.Contains(names, "openat") || !slices.Contains(names, "statx") {
		t.Errorf("default list is %v", names)
	}
	if err := validateSyscalls(names); err != nil {
		t.Error(err)
	}
}

func TestDurationNeedsUnit(t *testing.T) {
	for _, text := range []string{"5", "1 fortnight", "us", "-"} {
		var d Duration
		if err := yaml.Unmarshal([]byte(text), &d); err == nil {
			t.Errorf("%q was read as %v", text, time.Duration(d))
		}
	}
}
