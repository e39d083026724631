package receiver

import (
	"embed"
	"fmt"
	"io/fs"
	"net/http"
)

//go:embed page
var pageFiles embed.FS

// contentPolicy lets the page load from the receiver and from nowhere else.
const contentPolicy = "default-src 'self'; style-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

// addPage serves the heatmap page and the files it needs, all of them from the binary.
func addPage(mux *http.ServeMux) error {
	files, err := fs.Sub(pageFiles, "page")
	if err != nil {
		return fmt.Errorf("open page files: %w", err)
	}
	server := http.FileServerFS(files)
	serve := http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		w.Header().Set("Content-Security-Policy", contentPolicy)
		w.Header().Set("X-Content-Type-Options", "nosniff")
		w.Header().Set("Cache-Control", "no-cache") // the files change with the binary, and have no date to compare
		server.ServeHTTP(w, req)
	})
	mux.Handle("GET /{$}", serve)
	entries, err := fs.ReadDir(files, ".")
	if err != nil {
		return fmt.Errorf("list page files: %w", err)
	}
	for _, e := range entries {
		mux.Handle("GET /"+e.Name(), serve)
	}
	return nil
}
