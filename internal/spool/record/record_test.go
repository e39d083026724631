package record

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"flag"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/golang/snappy"

	"github.com/latpush/latpush/internal/latency"
	"github.com/latpush/latpush/internal/spool/spooltest"
)

// golden is a snapshot with one of everything. Its record stays uncompressed, so its bytes do not depend on snappy's version.
func golden() *latency.Snapshot {
	return &latency.Snapshot{
		Taken: latency.Instant{
			BootID:   [16]byte{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15},
			Boottime: 90*time.Second + 1,
			Wall:     time.Date(2026, time.November, 22, 15, 4, 5, 678_000_009, time.UTC),
		},
		Families: []latency.Family{
			{
				Name: "io", Help: "I/O.", Unit: "s", Kind: latency.Histogram, Bounds: []uint64{1000, 2000, 4000}, LabelNames: []string{"d", "op"},
				Series: []latency.Series{
					{LabelValues: []string{"sda", "r"}, Start: 5 * time.Second, Sum: 300, Counts: []uint64{0, 0, 7, 0}},
					{LabelValues: []string{"sda", ""}, Start: 4 * time.Second, Sum: 0xfedcba9876543210, Counts: []uint64{128, 0, 0, 1}},
				},
			},
			{Name: "n", Kind: latency.Counter, Series: []latency.Series{{Start: 4 * time.Second, Value: math.Pi}}},
			{Name: "t", Kind: latency.Gauge, LabelNames: []string{"op"}, Series: []latency.Series{{LabelValues: []string{"r"}, Value: -1.1}}},
		},
	}
}

func TestRoundTrip(t *testing.T) {
	t.Parallel()
	oneGauge := func(v float64) *latency.Snapshot {
		return &latency.Snapshot{Families: []latency.Family{{Name: "g", Kind: latency.Gauge, Series: []latency.Series{{Value: v}}}}}
	}
	tests := map[string]*latency.Snapshot{
		"zero value":           {},
		"one of everything":    golden(),
		"small":                spooltest.Snapshot(3),
		"1,000 label sets":     spooltest.Large(5, 1000, 27),
		"before 1970":          {Taken: latency.Instant{Boottime: -1, Wall: time.Date(1901, 2, 3, 4, 5, 6, 7, time.UTC)}},
		"far future":           {Taken: latency.Instant{Boottime: math.MaxInt64, Wall: time.Date(9999, 1, 1, 0, 0, 0, 999_999_999, time.UTC)}},
		"family without lines": {Families: []latency.Family{{Name: "x", Kind: latency.Histogram, Bounds: []uint64{0, math.MaxUint64}}}},
		"no bounds": {Families: []latency.Family{
			{Kind: latency.Histogram, Series: []latency.Series{{Counts: []uint64{0}}, {Counts: []uint64{math.MaxUint64}}}},
		}},
		"starts out of order": {Families: []latency.Family{{Kind: latency.Counter, Series: []latency.Series{
			{Start: math.MaxInt64}, {Start: math.MinInt64}, {Start: 0}, {Start: -1},
		}}}},
		"infinity":      oneGauge(math.Inf(-1)),
		"negative zero": oneGauge(math.Copysign(0, -1)),
	}
	for name, want := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b, err := new(Encoder).Encode([]byte("before"), want)
			if err != nil {
				t.Fatal(err)
			}
			b = bytes.TrimPrefix(b, []byte("before"))
			got, err := new(Decoder).Decode(b)
			if err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(got, want) {
				t.Errorf("got %+v, want %+v", got, want)
			}
			taken, err := ReadInstant(b)
			if err != nil || taken != want.Taken {
				t.Errorf("ReadInstant gives %+v, %v, want %+v", taken, err, want.Taken)
			}
		})
	}
}

// A stale marker is one particular NaN: its bits must survive.
func TestNaNBits(t *testing.T) {
	t.Parallel()
	const stale = 0x7ff0000000000002
	value := math.Float64frombits(stale)
	b, err := new(Encoder).Encode(nil, &latency.Snapshot{Families: []latency.Family{{Kind: latency.Gauge, Series: []latency.Series{{Value: value}}}}})
	if err != nil {
		t.Fatal(err)
	}
	got, err := new(Decoder).Decode(b)
	if err != nil {
		t.Fatal(err)
	}
	if bits := math.Float64bits(got.Families[0].Series[0].Value); bits != stale {
		t.Errorf("value has bits %#x, want %#x", bits, uint64(stale))
	}
}

// An encoder and a decoder that were used before must give what new ones give.
func TestReuse(t *testing.T) {
	t.Parallel()
	var encoder Encoder
	var decoder Decoder
	for _, want := range []*latency.Snapshot{spooltest.Large(1, 50, 27), golden(), {}, spooltest.Large(2, 80, 5), spooltest.Snapshot(1)} {
		b, err := encoder.Encode(nil, want)
		if err != nil {
			t.Fatal(err)
		}
		if fresh, err := new(Encoder).Encode(nil, want); err != nil || !bytes.Equal(b, fresh) {
			t.Errorf("a used encoder writes other bytes than a new one (%v)", err)
		}
		got, err := decoder.Decode(b)
		if err != nil {
			t.Fatal(err)
		}
		for i := range b {
			b[i] = 0xff
		}
		if _, err := decoder.Decode(append(b[:0:0], 9)); !errors.Is(err, ErrVersion) {
			t.Errorf("got %v, want ErrVersion", err)
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("got %+v, want %+v", got, want)
		}
	}
}

func TestStringsOnce(t *testing.T) {
	t.Parallel()
	b, err := new(Encoder).Encode(nil, golden())
	if err != nil {
		t.Fatal(err)
	}
	if n := bytes.Count(b, []byte("sda")); n != 1 {
		t.Errorf("label value is in the record %d times, want once", n)
	}
}

func TestInvalidSnapshots(t *testing.T) {
	t.Parallel()
	family := func(f latency.Family) *latency.Snapshot { return &latency.Snapshot{Families: []latency.Family{f}} }
	tests := map[string]struct {
		snapshot *latency.Snapshot
		want     error
		text     string
	}{
		"no kind": {family(latency.Family{Name: "x"}), ErrInvalid, `family "x": unknown kind 0`},
		"label values missing": {
			family(latency.Family{Kind: latency.Gauge, LabelNames: []string{"a"}, Series: []latency.Series{{}}}),
			ErrInvalid, "0 label values for 1 label names",
		},
		"counts missing": {
			family(latency.Family{Kind: latency.Histogram, Bounds: []uint64{1}, Series: []latency.Series{{Counts: []uint64{1}}}}),
			ErrInvalid, "1 counts for 1 bounds",
		},
		"bounds equal":       {family(latency.Family{Kind: latency.Histogram, Bounds: []uint64{1, 1}}), ErrInvalid, "bound 1 is not above"},
		"bounds of a gauge":  {family(latency.Family{Kind: latency.Gauge, Bounds: []uint64{1}}), ErrInvalid, "kind 3 has bucket bounds"},
		"sum of a counter":   {family(latency.Family{Kind: latency.Counter, Series: []latency.Series{{Sum: 1}}}), ErrInvalid, "kind 2 has bucket"},
		"counts of a gauge":  {family(latency.Family{Kind: latency.Gauge, Series: []latency.Series{{Counts: []uint64{1}}}}), ErrInvalid, "or a sum"},
		"too many counts":    {spooltest.Large(1, 1<<18, 32), ErrTooLarge, "bucket counts"},
		"too much in labels": {family(latency.Family{Kind: latency.Gauge, Help: strings.Repeat("x", maxBody)}), ErrTooLarge, "at most"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b, err := new(Encoder).Encode([]byte("before"), test.snapshot)
			if !errors.Is(err, test.want) || !strings.Contains(err.Error(), test.text) {
				t.Errorf("got %v, want %v with %q", err, test.want, test.text)
			}
			if string(b) != "before" {
				t.Errorf("dst came back as %q", b)
			}
		})
	}
}

func TestMalformedRecords(t *testing.T) {
	t.Parallel()
	good, err := new(Encoder).Encode(nil, golden())
	if err != nil {
		t.Fatal(err)
	}
	body := func(b ...byte) []byte { return append(append([]byte(nil), good[:HeaderSize]...), b...) }
	edit := func(f func(b []byte)) []byte {
		b := bytes.Clone(good)
		f(b)
		return b
	}
	packed := func(b []byte) []byte {
		record := body(b...)
		record[1] = flagSnappy
		return record
	}
	tests := map[string]struct {
		record []byte
		want   error
		text   string
	}{
		"empty":                  {nil, ErrMalformed, "no bytes"},
		"version 0":              {edit(func(b []byte) { b[0] = 0 }), ErrMalformed, "version 0 does not exist"},
		"newer version":          {edit(func(b []byte) { b[0] = Version + 1 }), ErrVersion, "version 2, this latpush reads up to 1"},
		"newer and shorter":      {[]byte{Version + 1}, ErrVersion, "version 2"},
		"unknown flag":           {edit(func(b []byte) { b[1] = 2 }), ErrMalformed, "unknown flags 0x02"},
		"header cut":             {good[:HeaderSize-1], ErrMalformed, "shorter than the header"},
		"nanoseconds":            {edit(func(b []byte) { binary.LittleEndian.PutUint32(b[34:], 1e9) }), ErrMalformed, "1000000000 nanoseconds"},
		"no body":                {body(), ErrMalformed, "number cut short"},
		"bytes after":            {append(bytes.Clone(good), 0), ErrMalformed, "1 bytes after the last family"},
		"strings past the end":   {body(9), ErrMalformed, "9 strings in 0 bytes"},
		"string past the end":    {body(1, 9, 'x'), ErrMalformed, "strings of 9 bytes in 1 bytes"},
		"string length too long": {body(append([]byte{1}, bytes.Repeat([]byte{0xff}, 11)...)...), ErrMalformed, "too long"},
		"string lengths wrap":    {body(append(binary.AppendUvarint([]byte{2}, math.MaxUint64), 2, 'x')...), ErrMalformed, "strings of more"},
		"families past the end":  {body(0, 2, 0, 0), ErrMalformed, "2 families in 2 bytes"},
		"string number":          {body(0, 1, 0, 0, 0, 1, 0, 0, 0), ErrMalformed, "string number 0 of 0"},
		"kind":                   {body(1, 0, 1, 0, 0, 0, 4, 0, 0, 0), ErrMalformed, "unknown kind 4"},
		"bounds of a counter":    {body(1, 0, 1, 0, 0, 0, 2, 1, 5, 0, 0), ErrMalformed, "kind 2 with bucket bounds"},
		"bounds equal":           {body(1, 0, 1, 0, 0, 0, 1, 2, 5, 0, 0, 0), ErrMalformed, "bounds not ascending"},
		"bounds past the end":    {body(1, 0, 1, 0, 0, 0, 1, 200, 1, 0), ErrMalformed, "200 bounds"},
		"series past the end":    {body(1, 0, 1, 0, 0, 0, 2, 0, 0, 9), ErrMalformed, "9 series in 0 bytes"},
		"value cut":              {body(1, 0, 1, 0, 0, 0, 2, 0, 0, 1, 128, 1, 1, 2, 3, 4, 5, 6, 7), ErrMalformed, "value cut short"},
		"zeros past the buckets": {body(1, 0, 1, 0, 0, 0, 1, 0, 0, 1, 0, 0, 0, 1), ErrMalformed, "run of zeros"},
		"number too long":        {body(bytes.Repeat([]byte{0xff}, 11)...), ErrMalformed, "too long"},
		"not snappy":             {packed([]byte{0xff}), ErrMalformed, "body"},
		"snappy cut":             {packed(snappy.Encode(nil, good)[:20]), ErrMalformed, "body"},
		"snappy bomb":            {packed(binary.AppendUvarint(nil, maxBody+1)), ErrMalformed, "body of 67108865 bytes"},
		"too many counts":        {body(manyCounts()...), ErrMalformed, "more than 8388608 bucket counts"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			snapshot, err := new(Decoder).Decode(test.record)
			if snapshot != nil || !errors.Is(err, test.want) || !strings.Contains(err.Error(), test.text) {
				t.Errorf("got %v, %v, want %v with %q", snapshot, err, test.want, test.text)
			}
		})
	}
}

// manyCounts is a body of a few kilobytes with more buckets than a record may have.
func manyCounts() []byte {
	const bounds, series = 5000, 1700
	b := []byte{1, 0, 1, 0, 0, 0, byte(latency.Histogram)}
	b = binary.AppendUvarint(b, bounds)
	b = append(b, bytes.Repeat([]byte{1}, bounds)...)
	b = append(b, 0)
	b = binary.AppendUvarint(b, series)
	for range series {
		b = append(b, 0, 0, 0)
		b = binary.AppendUvarint(b, bounds)
	}
	return b
}

var update = flag.Bool("update", false, "write the golden files")

// The bytes of version 1 are a promise to every spool in the field: a change here needs a new version.
func TestGoldenBytes(t *testing.T) {
	t.Parallel()
	path := filepath.Join("testdata", "v1.hex")
	got, err := new(Encoder).Encode(nil, golden())
	if err != nil {
		t.Fatal(err)
	}
	if *update {
		if err := os.WriteFile(path, []byte(hex.Dump(got)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if hex.Dump(got) != string(text) {
		t.Errorf("got\n%swant\n%s", hex.Dump(got), text)
	}
}

// A compressed record from disk must be read for ever, whatever a newer snappy would write today.
func TestGoldenCompressed(t *testing.T) {
	t.Parallel()
	path := filepath.Join("testdata", "v1-snappy.bin")
	want := spooltest.Large(7, 12, 27)
	if *update {
		b, err := new(Encoder).Encode(nil, want)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if b[1] != flagSnappy {
		t.Fatalf("flags are %#x, want a compressed record", b[1])
	}
	got, err := new(Decoder).Decode(b)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

func FuzzDecode(f *testing.F) {
	for _, snapshot := range []*latency.Snapshot{{}, golden(), spooltest.Snapshot(1), spooltest.Large(1, 5, 27)} {
		b, err := new(Encoder).Encode(nil, snapshot)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		first, err := new(Decoder).Decode(b)
		if err != nil {
			if !errors.Is(err, ErrMalformed) && !errors.Is(err, ErrVersion) {
				t.Fatalf("error of neither kind: %v", err)
			}
			return
		}
		again, err := new(Encoder).Encode(nil, first)
		if err != nil {
			t.Fatalf("decoded snapshot cannot be encoded: %v", err)
		}
		second, err := new(Decoder).Decode(again)
		if err != nil {
			t.Fatal(err)
		}
		// Compared as bytes, since NaN is not equal to itself.
		twice, err := new(Encoder).Encode(nil, second)
		if err != nil || !bytes.Equal(again, twice) {
			t.Errorf("second round gives other bytes (%v):\n%x\n%x", err, again, twice)
		}
	})
}

// The work of a tick must not depend on the number of label sets in allocations.
func TestAllocations(t *testing.T) {
	var encoder Encoder
	var decoder Decoder
	for _, sets := range []int{10, 1000} {
		snapshot := spooltest.Large(1, sets, 27)
		buffer, err := encoder.Encode(nil, snapshot)
		if err != nil {
			t.Fatal(err)
		}
		encode := testing.AllocsPerRun(20, func() { buffer, _ = encoder.Encode(buffer[:0], snapshot) })
		decode := testing.AllocsPerRun(20, func() { _, _ = decoder.Decode(buffer) })
		if encode > 0 || decode > 8 {
			t.Errorf("%d label sets: Encode allocates %.0f times, Decode %.0f times, want 0 and at most 8", sets, encode, decode)
		}
	}
}

func BenchmarkEncode(b *testing.B) {
	var encoder Encoder
	snapshot := spooltest.Large(1000, 1000, 27)
	var buffer []byte
	b.ReportAllocs()
	for b.Loop() {
		buffer, _ = encoder.Encode(buffer[:0], snapshot)
	}
	b.ReportMetric(float64(len(buffer)), "bytes/record")
}

func BenchmarkDecode(b *testing.B) {
	var decoder Decoder
	record, err := new(Encoder).Encode(nil, spooltest.Large(1000, 1000, 27))
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	b.SetBytes(int64(len(record)))
	for b.Loop() {
		if _, err := decoder.Decode(record); err != nil {
			b.Fatal(err)
		}
	}
}
