package upload_test

import (
	"os"
	"path/filepath"
	"reflect"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/latpush/latpush/internal/upload"
)

// FuzzConfig decodes any text. What is accepted must be writable, and be accepted again once it is written.
func FuzzConfig(f *testing.F) {
	paths, err := filepath.Glob(filepath.Join("testdata", "*.yml"))
	if err != nil {
		f.Fatal(err)
	}
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		configs, err := decode(text)
		if err != nil {
			return
		}
		for i := range configs {
			_ = configs[i].String()
		}
		written, err := yaml.Marshal(file{configs})
		if err != nil {
			t.Fatalf("write %q: %v", text, err)
		}
		again, err := decode(written)
		if err != nil {
			t.Fatalf("read what was written, %q: %v", written, err)
		}
		for i := range configs {
			if before, after := plainPart(&configs[i]), plainPart(&again[i]); !reflect.DeepEqual(before, after) {
				t.Errorf("%v became %v", before, after)
			}
		}
	})
}

// plainPart is what of an entry is written as it is: it has no secrets.
func plainPart(c *upload.Config) []any {
	return []any{
		c.Name, c.RemoteTimeout, c.ProtobufMessage, c.SendNativeHistograms, c.QueueConfig, c.MetadataConfig, c.PushInterval, c.IdleInterval, c.MaxBytesPerDay, c.MaxBytesPerSecond,
		c.StaleMarkers, c.QuarantineAfter, len(c.WriteRelabelConfigs),
	}
}
