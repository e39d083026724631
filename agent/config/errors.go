package config

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/latpush/latpush/internal/kernel"
	"github.com/latpush/latpush/internal/upload"
)

// Error is one thing that is wrong with the configuration, and where.
type Error struct {
	File string
	Line int    // counted from 1; 0 if the error concerns no line, such as a missing file
	Key  string // path of the key, such as "sources[2].buckets.bounds[3]"; empty if the error concerns no key
	Err  error
}

// Error formats the error as "file:line: key: message".
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(e.File)
	if e.Line > 0 {
		fmt.Fprintf(&b, ":%d", e.Line)
	}
	b.WriteString(": ")
	if e.Key != "" {
		b.WriteString(e.Key + ": ")
	}
	b.WriteString(e.Err.Error())
	return b.String()
}

func (e *Error) Unwrap() error { return e.Err }

// Errors is everything that is wrong with one configuration, in the order of the file's lines.
type Errors []*Error

// Error joins the errors with line feeds.
func (e Errors) Error() string {
	lines := make([]string, len(e))
	for i, err := range e {
		lines[i] = err.Error()
	}
	return strings.Join(lines, "\n")
}

// Unwrap returns the errors one by one.
func (e Errors) Unwrap() []error {
	errs := make([]error, len(e))
	for i, err := range e {
		errs[i] = err
	}
	return errs
}

func (e Errors) sorted() Errors {
	slices.SortStableFunc(e, func(a, b *Error) int { return a.Line - b.Line })
	return e
}

// flatten returns the errors that errors.Join put together.
func flatten(err error) []error {
	var joined interface{ Unwrap() []error }
	if err == nil {
		return nil
	}
	if !errors.As(err, &joined) {
		return []error{err}
	}
	var all []error
	for _, one := range joined.Unwrap() {
		all = append(all, flatten(one)...)
	}
	return all
}

// keyPrefix matches the key path in front of a validation error that has no type of its own, such as "buckets.bounds[3]: ".
var keyPrefix = regexp.MustCompile(`^[a-z][a-z0-9_]*(?:\[\d+\])*(?:\.[a-zA-Z0-9_-]+(?:\[\d+\])*)*: `)

// splitKey separates the key of a room's validation error, relative to the room's part of the file, from its message.
func splitKey(err error) (key string, message error) {
	var ofSource *kernel.KeyError
	var ofReceiver *upload.KeyError
	switch {
	case errors.As(err, &ofSource):
		return ofSource.Key, ofSource.Err
	case errors.As(err, &ofReceiver):
		return ofReceiver.Key, ofReceiver.Err
	}
	text := err.Error()
	prefix := keyPrefix.FindString(text)
	return strings.TrimSuffix(prefix, ": "), errors.New(text[len(prefix):])
}
