package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
)

// document is a YAML file with the line of every key, and the errors that were found in it so far.
type document struct {
	file   string
	folder string // of the file: relative names of secret files start here
	text   []byte
	root   *yaml.Node     // nil if the text is no mapping
	lines  map[string]int // key path to line
	errs   Errors
}

// syntaxLine matches the line number that the YAML parser puts in its messages.
var syntaxLine = regexp.MustCompile(`^yaml: (?:unmarshal errors:\s+)?(?:line (\d+): )?`)

// unknownAnchor matches the one message of the parser that never has a line.
var unknownAnchor = regexp.MustCompile(`^unknown anchor '(.*)' referenced$`)

// parse reads the YAML text. If it is not YAML, or not a mapping, the document has no root and one error.
func parse(file, folder string, text []byte) *document {
	doc := &document{file: file, folder: folder, text: text, lines: make(map[string]int)}
	if line := invalidUTF8(text); line > 0 {
		doc.report(line, "", errors.New("invalid UTF-8 (save the file as UTF-8 without a byte order mark)"))
		return doc
	}
	decoder := yaml.NewDecoder(bytes.NewReader(text))
	var first, second yaml.Node
	switch err := decoder.Decode(&first); {
	case errors.Is(err, io.EOF):
		doc.report(1, "", errors.New("the file is empty"))
		return doc
	case err != nil:
		doc.syntaxError(err)
		return doc
	}
	switch err := decoder.Decode(&second); {
	case err == nil:
		doc.report(second.Line, "", errors.New("a second YAML document (only one is read, remove the line ---)"))
		return doc
	case !errors.Is(err, io.EOF):
		doc.syntaxError(err)
		return doc
	}
	root := first.Content[0]
	if root.Kind == yaml.ScalarNode && root.Tag == "!!null" {
		doc.report(1, "", errors.New("the file is empty"))
		return doc
	}
	if root.Kind != yaml.MappingNode {
		doc.report(root.Line, "", fmt.Errorf("expected keys and values, not %s", describe(root, "")))
		return doc
	}
	doc.root = root
	return doc
}

// invalidUTF8 returns the line of the first byte that is not UTF-8, or 0. The parser would name a byte offset instead.
func invalidUTF8(text []byte) int {
	for i, line := range bytes.Split(text, []byte("\n")) {
		if !utf8.Valid(line) {
			return i + 1
		}
	}
	return 0
}

func (d *document) syntaxError(err error) {
	text := err.Error()
	match := syntaxLine.FindStringSubmatch(text)
	line := 0
	if match != nil {
		text = text[len(match[0]):]
		line, _ = strconv.Atoi(match[1]) // no number: the parser named no line
	}
	if anchor := unknownAnchor.FindStringSubmatch(text); anchor != nil {
		before, _, _ := bytes.Cut(d.text, []byte("*"+anchor[1]))
		line = bytes.Count(before, []byte("\n")) + 1
	}
	d.report(line, "", errors.New(text))
}

func (d *document) report(line int, key string, err error) {
	d.errs = append(d.errs, &Error{File: d.file, Line: line, Key: key, Err: err})
}

// line returns the line of a key, or of the nearest key around it that the file has.
func (d *document) line(path string) int {
	for {
		if line, found := d.lines[path]; found {
			return line
		}
		cut := strings.LastIndexAny(path, ".[")
		if cut < 0 {
			return 1
		}
		path = path[:cut]
	}
}

// validation reports the errors of a room's Validate. Their keys are relative to path.
func (d *document) validation(path string, err error) {
	for _, one := range flatten(err) {
		key, message := splitKey(one)
		full := join(path, key)
		d.report(d.line(full), full, message)
	}
}

// decode decodes a value into target, a pointer, unless something is wrong with its form. It returns whether target holds the value.
// A nil node, a key that the file does not have, leaves target as it is.
func (d *document) decode(node *yaml.Node, path string, target any) bool {
	if node == nil {
		return true
	}
	if !d.clean(path) {
		return false
	}
	if err := node.Decode(target); err != nil {
		d.validation(path, decodeError(err))
		return false
	}
	return true
}

// check reports everything in the document that does not fit the type, and notes the line of every key.
func (d *document) check(t reflect.Type) {
	(&checker{document: d}).value(d.root, t, "")
}

// clean tells whether no error was found in the value at path.
func (d *document) clean(path string) bool {
	for _, err := range d.errs {
		if rest, within := strings.CutPrefix(err.Key, path); within && (rest == "" || rest[0] == '.' || rest[0] == '[') {
			return false
		}
	}
	return true
}

// decodeError strips what the YAML package adds to the message of a type's own unmarshalling method.
func decodeError(err error) error {
	return errors.New(syntaxLine.ReplaceAllString(err.Error(), ""))
}

// lookup returns the value of a key of a mapping, or nil.
func lookup(mapping *yaml.Node, key string) *yaml.Node {
	for i := 0; i+1 < len(mapping.Content); i += 2 {
		if mapping.Content[i].Value == key {
			return mapping.Content[i+1]
		}
	}
	return nil
}

// join appends a key to a path. A key that starts with an index goes on without a dot.
func join(path, key string) string {
	switch {
	case key == "":
		return path
	case path == "" || strings.HasPrefix(key, "["):
		return path + key
	}
	return path + "." + key
}

// describe says what a value is. A value in remote_write may be a password that stands in the wrong place, and is not shown.
func describe(node *yaml.Node, path string) string {
	switch {
	case node.Kind == yaml.MappingNode:
		return "keys and values"
	case node.Kind == yaml.SequenceNode:
		return "a list"
	case strings.HasPrefix(path, receiversKey):
		return "a single value"
	}
	return strconv.Quote(node.Value)
}
