package upload

import (
	"errors"
	"fmt"
	"net/url"
	"strings"

	"go.yaml.in/yaml/v3"
)

// explain makes an error of decoding fit to be shown: it says the line and the key, and leaves out values, which may be secrets. newValue makes an empty value
// of the type that could not be decoded.
func explain(err error, unmarshal func(any) error, newValue func() any) error {
	var several *yaml.TypeError
	if errors.As(err, &several) {
		lines := make([]string, len(several.Errors))
		for i, l := range several.Errors {
			lines[i] = withoutValue(l)
		}
		return &yaml.TypeError{Errors: lines}
	}
	// An UnmarshalYAML of the types below has refused a value, and its error does not say where.
	var mapping captured
	if unmarshal(&mapping) != nil || mapping.node == nil {
		return withoutURL(err)
	}
	decode := func(n *yaml.Node) error { return n.Decode(newValue()) }
	key, line := locate(mapping.node, decode, err.Error())
	if key == "" {
		return withoutURL(err)
	}
	return &yaml.TypeError{Errors: []string{fmt.Sprintf("line %d: %s: %v", line, key, withoutURL(err))}}
}

// captured keeps the node that it is decoded from.
type captured struct{ node *yaml.Node }

// UnmarshalYAML keeps the node.
func (c *captured) UnmarshalYAML(n *yaml.Node) error {
	c.node = n
	return nil
}

// locate finds the key whose value alone makes decode fail with the given text, as deep as there is one, and gives its path and line.
func locate(mapping *yaml.Node, decode func(*yaml.Node) error, text string) (string, int) {
	for i := 0; i+1 < len(mapping.Content); i += 2 {
		key, value := mapping.Content[i], mapping.Content[i+1]
		only := func(v *yaml.Node) error {
			return decode(&yaml.Node{Kind: yaml.MappingNode, Tag: mapping.Tag, Content: []*yaml.Node{key, v}})
		}
		if err := only(value); err == nil || err.Error() != text {
			continue
		}
		switch value.Kind {
		case yaml.MappingNode:
			if inner, line := locate(value, only, text); inner != "" {
				return key.Value + "." + inner, line
			}
		case yaml.SequenceNode:
			if inner, line := locateItem(value, only, text); inner != "" {
				return key.Value + inner, line
			}
		}
		return key.Value, key.Line
	}
	return "", 0
}

// locateItem is locate for a list.
func locateItem(list *yaml.Node, decode func(*yaml.Node) error, text string) (string, int) {
	for i, item := range list.Content {
		only := func(v *yaml.Node) error {
			return decode(&yaml.Node{Kind: yaml.SequenceNode, Tag: list.Tag, Content: []*yaml.Node{v}})
		}
		if err := only(item); err == nil || err.Error() != text {
			continue
		}
		path := fmt.Sprintf("[%d]", i)
		if item.Kind == yaml.MappingNode {
			if inner, line := locate(item, only, text); inner != "" {
				return path + "." + inner, line
			}
		}
		return path, item.Line
	}
	return "", 0
}

// withoutURL replaces an error of parsing a URL, whose text holds pieces of the URL, of which any may be a password.
func withoutURL(err error) error {
	var bad *url.Error
	if errors.As(err, &bad) {
		return errors.New("not a valid URL (its text is not shown, it may hold a password; write special characters in user names and passwords as %XX)")
	}
	return err
}

// withoutValue rewrites one error of the YAML library: the value that it quotes is left out, and it speaks of keys instead of Go types.
func withoutValue(line string) string {
	where, what, ok := strings.Cut(line, ": ")
	if !ok {
		return line
	}
	if key, found := strings.CutPrefix(what, "field "); found {
		if key, _, unknown := strings.Cut(key, " not found in type "); unknown {
			if why, known := ForeignKey(key); known {
				return fmt.Sprintf("%s: key %q: %s", where, key, why)
			}
			return fmt.Sprintf("%s: unknown key %q", where, key)
		}
		if key, _, twice := strings.Cut(key, " already set in type "); twice {
			return fmt.Sprintf("%s: key %q is given twice", where, key)
		}
	}
	if kind, found := strings.CutPrefix(what, "cannot unmarshal "); found {
		kind, _, _ = strings.Cut(kind, " ") // the value follows
		into := what[strings.LastIndex(what, " ")+1:]
		if strings.Contains(into, ".") {
			return fmt.Sprintf("%s: a value of type %s does not fit here", where, kind) // the name of a Go type helps nobody
		}
		return fmt.Sprintf("%s: a value of type %s does not fit here, where %s is wanted", where, kind, into)
	}
	return line
}
