package config

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
)

// fields are the keys that a mapping may have and the types of their values.
type fields struct {
	named map[string]reflect.Type
	rest  reflect.Type // of every other key; nil if there must be none
}

// fieldsOf reads the YAML tags of a struct type, with the fields of the structs that are inlined in it.
func fieldsOf(t reflect.Type) fields {
	all := fields{named: make(map[string]reflect.Type)}
	for field := range t.Fields() {
		name, options, _ := strings.Cut(field.Tag.Get("yaml"), ",")
		inline := slices.Contains(strings.Split(options, ","), "inline")
		switch {
		case !field.IsExported() && !inline, name == "-":
		case inline && field.Type.Kind() == reflect.Map:
			all.rest = field.Type.Elem()
		case inline:
			inner := field.Type
			if inner.Kind() == reflect.Pointer {
				inner = inner.Elem()
			}
			for name, t := range fieldsOf(inner).named {
				all.named[name] = t
			}
		case name == "":
			all.named[strings.ToLower(field.Name)] = field.Type
		default:
			all.named[name] = field.Type
		}
	}
	return all
}

func (f fields) find(key string) (t reflect.Type, found bool) {
	if t, found = f.named[key]; found {
		return t, true
	}
	return f.rest, f.rest != nil
}

// unknown says that there is no such key, and which one may have been meant.
func (f fields) unknown(key string) error {
	names := make([]string, 0, len(f.named))
	for name := range f.named {
		names = append(names, name)
	}
	slices.Sort(names)
	if guess, found := nearest(key, names); found {
		return fmt.Errorf("unknown key (did you mean %s?)", guess)
	}
	return fmt.Errorf("unknown key (known are %s)", strings.Join(names, ", "))
}

// nearest returns the name that takes the fewest edits to get to, if it is at most a third of the word.
func nearest(word string, names []string) (best string, found bool) {
	least := max(len(word)/3, 1) + 1
	for _, name := range names {
		if n := edits(strings.ToLower(word), name); n < least {
			best, least, found = name, n, true
		}
	}
	return best, found
}

// edits is the Levenshtein distance: how many bytes to insert, delete or replace.
func edits(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			diagonal, row[j+1] = row[j+1], min(diagonal+cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
