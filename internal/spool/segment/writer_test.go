package segment

import (
	"errors"
	"strings"
	"syscall"
	"testing"
)

func TestWriterFaults(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		spoil  func(*memory)
		want   error
		usable bool
		syncs  bool // the error is ErrSync
	}{
		"disk full":                {func(m *memory) { m.writeErr = syscall.ENOSPC }, syscall.ENOSPC, true, false},
		"quota":                    {func(m *memory) { m.writeErr = syscall.EDQUOT }, syscall.EDQUOT, true, false},
		"I/O error":                {func(m *memory) { m.writeErr = syscall.EIO }, syscall.EIO, false, false},
		"disk full, cannot be cut": {func(m *memory) { m.writeErr, m.cutErr = syscall.ENOSPC, syscall.EIO }, syscall.EIO, false, false},
		"sync":                     {func(m *memory) { m.syncErr = syscall.EIO }, syscall.EIO, false, true},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			file := newMemory(nil)
			w, err := Create("test.seg", file, testHeader(), true)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := w.Append(frameOf("durable"), 7); err != nil {
				t.Fatal(err)
			}
			test.spoil(file)
			_, err = w.Append(frameOf("broken, and quite a bit longer"), 8)
			if !errors.Is(err, test.want) || errors.Is(err, ErrSync) != test.syncs || !strings.Contains(err.Error(), "test.seg") {
				t.Errorf("got %v, want %v (of a sync: %v)", err, test.want, test.syncs)
			}
			if w.Usable() != test.usable {
				t.Errorf("usable is %v, want %v", w.Usable(), test.usable)
			}
			want := []string{"durable"}
			if test.usable {
				if _, err := w.Append(frameOf("next"), 8); err != nil {
					t.Fatal(err)
				}
				want = append(want, "next")
			}
			if got := scan(t, file, w.Size()); strings.Join(got, " ") != strings.Join(want, " ") {
				t.Errorf("segment holds %q, want %q", got, want)
			}
			if file.cutErr == nil && int64(len(file.bytes)) != w.Size() {
				t.Errorf("file of %d bytes, want %d", len(file.bytes), w.Size())
			}
		})
	}
}

func TestCreateAndResumeFaults(t *testing.T) {
	t.Parallel()
	full := newMemory(nil)
	full.writeErr = syscall.ENOSPC
	if _, err := Create("test.seg", full, testHeader(), true); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("Create gives %v, want ENOSPC", err)
	}
	bad := newMemory(nil)
	bad.syncErr = syscall.EIO
	if _, err := Create("test.seg", bad, testHeader(), true); !errors.Is(err, ErrSync) {
		t.Errorf("Create gives %v, want ErrSync", err)
	}
	b, _ := written(t, "a", "b")
	stuck := newMemory(b)
	stuck.cutErr = syscall.EROFS
	if _, err := Resume("test.seg", stuck, testHeader(), int64(len(b)), true); !errors.Is(err, syscall.EROFS) {
		t.Errorf("Resume gives %v, want EROFS", err)
	}
}

func TestResume(t *testing.T) {
	t.Parallel()
	b, at := written(t, "a", "b", "c")
	file := newMemory(b)
	w, err := Resume("test.seg", file, testHeader(), at[2], true)
	if err != nil {
		t.Fatal(err)
	}
	if file.syncs != 1 {
		t.Errorf("%d syncs, want the cut to be made durable", file.syncs)
	}
	if _, err := w.Append(frameOf("x"), 9); err != nil {
		t.Fatal(err)
	}
	if got := scan(t, file, int64(len(file.bytes))); strings.Join(got, " ") != "a b x" {
		t.Errorf("segment holds %q", got)
	}
}

func TestWithoutSync(t *testing.T) {
	t.Parallel()
	file := newMemory(nil)
	file.syncErr = syscall.EIO
	w, err := Create("test.seg", file, testHeader(), false)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Append(frameOf("a"), 7); err != nil || file.syncs != 0 {
		t.Errorf("got %v after %d syncs, want none", err, file.syncs)
	}
}
