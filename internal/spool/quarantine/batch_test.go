package quarantine

import (
	"bytes"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// Whatever is done to a file: it is reported, the others are as before, and nothing is deleted.
func TestDamage(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name   string
		damage func(contents []byte) []byte
		want   error
		text   string
	}{
		{"empty", func([]byte) []byte { return nil }, ErrCorrupt, "no first line"},
		{"cut in the first line", func(b []byte) []byte { return b[:20] }, ErrCorrupt, "no first line"},
		{"cut in the header", func(b []byte) []byte { return b[:60] }, ErrCorrupt, "checksum"},
		{"cut in the body", func(b []byte) []byte { return b[:len(b)-1] }, ErrCorrupt, "checksum"},
		{"longer", func(b []byte) []byte { return append(b, 0) }, ErrCorrupt, "checksum"},
		{"a bit of the body", func(b []byte) []byte { b[len(b)-5] ^= 4; return b }, ErrCorrupt, "checksum"},
		{"a bit of the header", func(b []byte) []byte { b[50] ^= 1; return b }, ErrCorrupt, "checksum"},
		{"another word", func(b []byte) []byte { b[0] = 'L'; return b }, ErrCorrupt, "does not start with"},
		{"zeros", func(b []byte) []byte { clear(b); return b }, ErrCorrupt, "no first line"},
		{"version 0", func(b []byte) []byte { return bytes.Replace(b, []byte(" v1 "), []byte(" v0 "), 1) }, ErrCorrupt, "version"},
		{"a newer version", func(b []byte) []byte { return bytes.Replace(b, []byte(" v1 "), []byte(" v2 "), 1) }, ErrVersion, "install the newer one"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			directory := t.TempDir()
			s, _ := openStore(t, directory, 10_000)
			put(t, s, batch(1, 2600), batch(2, 2600), batch(3, 2600))
			contents, err := os.ReadFile(file(directory, 1))
			if err != nil {
				t.Fatal(err)
			}
			damaged := tt.damage(contents)
			if err := os.WriteFile(file(directory, 1), damaged, 0o600); err != nil {
				t.Fatal(err)
			}
			_, err = Load(directory, "1")
			if !errors.Is(err, tt.want) || !strings.Contains(err.Error(), tt.text) || !strings.Contains(err.Error(), file(directory, 1)) {
				t.Errorf("error %v, want one with %q", err, tt.text)
			}
			wantIDs(t, directory, "1!", "2", "3")
			// Both a store that finds it when it drops, and one that finds it at its start, keep the file and the bound.
			put(t, s, batch(4, 2600))
			s, log := openStore(t, directory, 10_000)
			if got := strings.Count(log.String(), "cannot be read, its file stays"); got != 1 {
				t.Errorf("%d lines in the log:\n%s", got, log)
			}
			put(t, s, batch(5, 2600), batch(6, 2600))
			wantIDs(t, directory, "1!", "4", "5", "6")
			if after, err := os.ReadFile(file(directory, 1)); err != nil || !bytes.Equal(after, damaged) {
				t.Errorf("the damaged file was changed (%v)", err)
			}
			// The user may delete it.
			if err := Remove(directory, "1"); err != nil {
				t.Error(err)
			}
		})
	}
}

var update = flag.Bool("update", false, "write the golden files")

func TestGolden(t *testing.T) {
	t.Parallel()
	b := batch(1, 0)
	b.Body = []byte{0x0a, 0x00, 0xff, '\n', 'x'}
	contents, err := encode(&b)
	if err != nil {
		t.Fatal(err)
	}
	golden := filepath.Join("testdata", "v1.hex")
	text := hex.Dump(contents)
	if *update {
		if err := os.WriteFile(golden, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), text); diff != "" {
		t.Errorf("the format has changed: raise fileVersion (-want +got):\n%s", diff)
	}
}

// A key that a later latpush adds does not make a file of this version unreadable.
func TestUnknownKeysAreIgnored(t *testing.T) {
	t.Parallel()
	rest := []byte("{\"receiver\":\"main\",\"color\":\"blue\"}\nbody")
	b, err := decode(append(fmt.Appendf(nil, "latpush-quarantine v1 %08x\n", checksum(rest)), rest...))
	if err != nil || b.Receiver != "main" || string(b.Body) != "body" {
		t.Errorf("decoded %+v, %v", b, err)
	}
}

func FuzzDecode(f *testing.F) {
	b := batch(1, 100)
	contents, err := encode(&b)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(contents)
	f.Add(contents[:70])
	f.Add([]byte("latpush-quarantine v2 00000000\n"))
	f.Add([]byte("latpush-quarantine v1 00000000\n"))
	f.Fuzz(func(t *testing.T, contents []byte) {
		sealed := contents
		if _, rest, found := bytes.Cut(contents, []byte{'\n'}); found { // else the checksum keeps the fuzzer out
			sealed = append(fmt.Appendf(nil, "latpush-quarantine v1 %08x\n", checksum(rest)), rest...)
		}
		for _, c := range [][]byte{contents, sealed} {
			decoded, err := decode(c)
			if err != nil {
				if !errors.Is(err, ErrCorrupt) && !errors.Is(err, ErrVersion) {
					t.Fatalf("unexpected kind of error: %v", err)
				}
				continue
			}
			again, err := encode(&decoded)
			if err != nil {
				continue // a time that JSON can be read from and not be written to
			}
			twice, err := decode(again)
			if err != nil {
				t.Fatalf("what was encoded cannot be decoded: %v", err)
			}
			if !bytes.Equal(twice.Body, decoded.Body) || twice.Message != decoded.Message || !twice.Oldest.Equal(decoded.Oldest) {
				t.Fatalf("%+v became %+v", decoded, twice)
			}
		}
	})
}
