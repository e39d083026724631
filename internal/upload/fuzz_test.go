package upload_test

import (
	"os"
	"path/filepath"
	"reflect"
	"testing"

	"go.yaml.in/yaml/v3"
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
			if !reflect.DeepEqual(again[i].QueueConfig, configs[i].QueueConfig) {
				t.Errorf("queue_config was %v and became %v", configs[i].QueueConfig, again[i].QueueConfig)
			}
		}
	})
}
