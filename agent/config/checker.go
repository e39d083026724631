package config

import (
	"encoding"
	"errors"
	"fmt"
	"net/url"
	"reflect"
	"slices"
	"strings"

	"github.com/alecthomas/units"
	"github.com/prometheus/common/model"
	"go.yaml.in/yaml/v3"

	"github.com/latpush/latpush/internal/upload"
)

// checker compares the form of a document with the Go type that it is going to be decoded into, and reports every difference with its key.
// The YAML package's own strict mode stops at the first error of a type with an unmarshalling method and does not look into such a type.
type checker struct {
	*document
	merging []*yaml.Node // what `<<` is merging, outermost first
}

// value checks one value against the type that it is decoded into.
func (c *checker) value(node *yaml.Node, t reflect.Type, path string) {
	if node.Kind == yaml.AliasNode {
		node = node.Alias // the depth is bounded by that of the type, even if the value contains itself
	}
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	known := len(c.errs)
	switch {
	case node.Kind == yaml.ScalarNode && node.ShortTag() == "!!null":
		c.report(node.Line, path, errors.New("the key has no value (write one or remove the key)"))
	case node.Kind == yaml.ScalarNode:
		c.scalar(node, t, path)
	case t.Kind() == reflect.Interface:
	case t.Kind() == reflect.Struct && node.Kind == yaml.MappingNode:
		c.mapping(node, path, fieldsOf(t))
		c.unmarshaler(node, t, path, known)
	case t.Kind() == reflect.Map && node.Kind == yaml.MappingNode:
		c.mapping(node, path, fields{rest: t.Elem()})
	case t.Kind() == reflect.Slice && node.Kind == yaml.SequenceNode:
		for i, item := range node.Content {
			key := fmt.Sprintf("%s[%d]", path, i)
			c.lines[key] = item.Line
			c.value(item, t.Elem(), key)
		}
	default:
		c.report(node.Line, path, fmt.Errorf("expected %s, not %s", expected(t), describe(node, path)))
	}
}

// scalar decodes a single value on its own, so that its error gets its own line.
func (c *checker) scalar(node *yaml.Node, t reflect.Type, path string) {
	composite := t.Kind() == reflect.Struct || t.Kind() == reflect.Map || t.Kind() == reflect.Slice
	if composite && !decodesItself(t) {
		c.report(node.Line, path, fmt.Errorf("expected %s, not %s", expected(t), describe(node, path)))
		return
	}
	err := node.Decode(reflect.New(t).Interface())
	var mismatch *yaml.TypeError
	var badURL *url.Error
	switch {
	case err == nil:
		return
	case errors.As(err, &badURL):
		err = errors.New("not a valid URL (write special characters in user names and passwords as %XX)") // its text may hold a password
	case errors.As(err, &mismatch):
		err = fmt.Errorf("expected %s, not %s", expected(t), describe(node, path))
	case t == reflect.TypeFor[model.Duration]():
		err = fmt.Errorf("%w (a number with a unit: ms, s, m, h, d, w or y)", err)
	case t == reflect.TypeFor[units.Base2Bytes]():
		err = fmt.Errorf("%q is no size (a number with a unit: KiB, MiB or GiB)", node.Value)
	}
	c.report(node.Line, path, decodeError(err))
}

// mapping checks keys and values. A key that is written twice, or not known, is reported.
func (c *checker) mapping(node *yaml.Node, path string, known fields) {
	seen := make(map[string]int)
	for i := 0; i+1 < len(node.Content); i += 2 {
		key, value := node.Content[i], node.Content[i+1]
		if key.ShortTag() == "!!merge" {
			c.merge(value, path, known)
			continue
		}
		full := join(path, key.Value)
		if line, twice := seen[key.Value]; twice {
			c.report(key.Line, full, fmt.Errorf("the key is written twice (first in line %d)", line))
			continue
		}
		seen[key.Value] = key.Line
		c.lines[full] = key.Line
		t, found := known.find(key.Value)
		if !found {
			c.report(key.Line, full, unknownKey(full, key.Value, known))
			continue
		}
		c.value(value, t, full)
	}
}

// unknownKey says that there is no such key. Those that Prometheus has for a receiver, and latpush has not, get a reason of their own.
func unknownKey(path, key string, known fields) error {
	if strings.HasPrefix(path, receiversKey+"[") {
		if why, foreign := upload.ForeignKey(key); foreign {
			return fmt.Errorf("not supported: %s", why)
		}
	}
	return known.unknown(key)
}

// merge checks the mappings that `<<` merges into another one.
func (c *checker) merge(node *yaml.Node, path string, known fields) {
	if slices.Contains(c.merging, node) {
		c.report(node.Line, path, errors.New("<< merges a value that contains itself"))
		return
	}
	c.merging = append(c.merging, node)
	defer func() { c.merging = c.merging[:len(c.merging)-1] }()
	switch node.Kind {
	case yaml.AliasNode:
		c.merge(node.Alias, path, known)
	case yaml.MappingNode:
		c.mapping(node, path, known)
	case yaml.SequenceNode:
		for _, item := range node.Content {
			c.merge(item, path, known)
		}
	default:
		c.report(node.Line, path, fmt.Errorf("<< merges keys and values, not %s", describe(node, path)))
	}
}

// unmarshaler runs the type's own unmarshalling method, if it has one and the parts of the value are right: some check their parts together.
func (c *checker) unmarshaler(node *yaml.Node, t reflect.Type, path string, known int) {
	if path == "" || len(c.errs) > known || !decodesItself(t) {
		return
	}
	if err := node.Decode(reflect.New(t).Interface()); err != nil {
		c.validation(path, decodeError(err))
	}
}

// legacyUnmarshaler is the form of the method that yaml.v2 had and v3 still calls. The Prometheus configuration types have it.
type legacyUnmarshaler interface {
	UnmarshalYAML(unmarshal func(any) error) error
}

func decodesItself(t reflect.Type) bool {
	pointer := reflect.PointerTo(t)
	return pointer.Implements(reflect.TypeFor[yaml.Unmarshaler]()) || pointer.Implements(reflect.TypeFor[legacyUnmarshaler]()) ||
		pointer.Implements(reflect.TypeFor[encoding.TextUnmarshaler]())
}

// expected names the form that a type has in the file.
func expected(t reflect.Type) string {
	switch t.Kind() {
	case reflect.Struct, reflect.Map:
		return "keys and values"
	case reflect.Slice:
		return "a list"
	case reflect.Bool:
		return "true or false"
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return "a whole number"
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return "a whole number that is not negative"
	case reflect.Float32, reflect.Float64:
		return "a number"
	}
	return "a text"
}
