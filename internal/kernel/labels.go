package kernel

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
)

// other is the label value of events whose own label set has no place.
const other = "other"

// keyLayout says how the bytes of a map key become label values. It is read from the key's type information: the members are the labels.
type keyLayout struct {
	size   int
	fields []keyField
}

type keyField struct {
	label        string
	offset, size int
	text         bool              // a string that ends with the first zero byte
	names        map[uint64]string // of an enumeration
	symbol       bool              // the address of a function
	typedef      string            // name of the member's type
	numbering    numbering         // what names the numbers of that type; nil: names, or nothing
}

// numbering gives names to the numbers of one type of members.
type numbering interface {
	// learn looks up the names of numbers.
	learn(numbers map[uint64]bool) error
	// name returns the name of a number, false if it is not known yet.
	name(number uint64) (string, bool)
	// changed returns whether a number stands for something else, with another name, than when it was learned.
	changed(number uint64) bool
	// refresh is called before each reading of the keys.
	refresh() error
	// sweep is called after it, with the numbers that are in use.
	sweep(used map[uint64]bool) error
}

// symbolType is the type, in bpf/labels.bpf.h, of a member that is the address of a function.
const symbolType = "kernel_function"

// layoutOf reads the layout of a map's keys.
func layoutOf(spec *ebpf.CollectionSpec, name string) (*keyLayout, error) {
	m := spec.Maps[name]
	if m == nil {
		return nil, fmt.Errorf("find map %s: the object has no such map", name)
	}
	key, ok := m.Key.(*btf.Struct)
	if !ok {
		return nil, fmt.Errorf("read key of map %s: it is no struct", name)
	}
	layout, err := newKeyLayout(key)
	if err != nil {
		return nil, fmt.Errorf("read key of map %s: %w", name, err)
	}
	return layout, nil
}

func newKeyLayout(key *btf.Struct) (*keyLayout, error) {
	layout := &keyLayout{size: int(key.Size)}
	for _, member := range key.Members {
		field := keyField{label: member.Name, offset: int(member.Offset.Bytes())}
		if named, ok := member.Type.(*btf.Typedef); ok {
			field.typedef = named.Name
		}
		if field.typedef == symbolType {
			field.symbol, field.names = true, map[uint64]string{0: other}
		}
		switch t := btf.UnderlyingType(member.Type).(type) {
		case *btf.Array:
			field.text, field.size = true, int(t.Nelems)
		case *btf.Enum:
			field.size, field.names = int(t.Size), enumNames(t)
		case *btf.Int:
			field.size = int(t.Size)
		default:
			return nil, fmt.Errorf("member %s of struct %s is of no type that can be a label", member.Name, key.Name)
		}
		layout.fields = append(layout.fields, field)
	}
	return layout, nil
}

// enumNames returns the label values of an enumeration: `enum nfs_operation { NFS_OPERATION_READ }` has the value "read".
func enumNames(enum *btf.Enum) map[uint64]string {
	names := make(map[uint64]string, len(enum.Values))
	prefix := strings.ToUpper(enum.Name) + "_"
	for _, value := range enum.Values {
		names[value.Value] = strings.ToLower(strings.TrimPrefix(value.Name, prefix))
	}
	return names
}

// hide makes members be no labels. Their bytes in the keys are zero.
func (l *keyLayout) hide(labels []string) {
	l.fields = slices.DeleteFunc(l.fields, func(f keyField) bool { return slices.Contains(labels, f.label) })
}

// number lets n name the members of a type.
func (l *keyLayout) number(typedef string, n numbering) {
	for i := range l.fields {
		if l.fields[i].typedef == typedef {
			l.fields[i].numbering = n
		}
	}
}

// list says what the first member is: a label whose numbers are the places in a list.
func (l *keyLayout) list(label string, names []string) {
	l.fields[0].label, l.fields[0].names = label, make(map[uint64]string, len(names))
	for place, name := range names {
		l.fields[0].names[uint64(place)] = name
	}
}

func (l *keyLayout) labels() []string {
	var labels []string
	for _, field := range l.fields {
		labels = append(labels, field.label)
	}
	return labels
}

// values returns the label values of a key, nil if one of them is not known yet.
func (l *keyLayout) values(key []byte) []string {
	values := make([]string, 0, len(l.fields))
	for _, field := range l.fields {
		value, known := field.value(field.of(key))
		if !known {
			return nil
		}
		values = append(values, value)
	}
	return values
}

// changed returns whether a key has another label set than when it was learned.
func (l *keyLayout) changed(key []byte) bool {
	return slices.ContainsFunc(l.fields, func(f keyField) bool { return f.numbering != nil && f.numbering.changed(nativeUint(f.of(key))) })
}

// hasFunctions returns whether a label is the name of a function.
func (l *keyLayout) hasFunctions() bool {
	return slices.ContainsFunc(l.fields, func(f keyField) bool { return f.symbol })
}

// of returns the bytes of the member in a key.
func (f *keyField) of(key []byte) []byte { return key[f.offset : f.offset+f.size] }

func (f *keyField) value(raw []byte) (value string, known bool) {
	if f.text {
		text, _, _ := bytes.Cut(raw, []byte{0})
		return labelText(string(text)), true
	}
	number := nativeUint(raw)
	if f.numbering != nil {
		return f.numbering.name(number)
	}
	if name, ok := f.names[number]; ok {
		return name, true
	}
	if f.symbol {
		return other, true
	}
	return strconv.FormatUint(number, 10), true
}

// learn looks up the names of the numbers in keys that have not been seen before. Functions that have none are "other".
func (l *keyLayout) learn(keys [][]byte) error {
	for _, field := range l.fields {
		if field.numbering != nil {
			if err := field.numbering.learn(field.numbers(keys)); err != nil {
				return err
			}
		}
		if !field.symbol {
			continue
		}
		unknown := make(map[uint64]bool)
		for _, key := range keys {
			if address := nativeUint(key[field.offset : field.offset+field.size]); field.names[address] == "" {
				unknown[address] = true
			}
		}
		if len(unknown) == 0 {
			continue
		}
		names, err := functionNames(unknown)
		if err != nil {
			return err
		}
		maps.Copy(field.names, names)
	}
	return nil
}

// numbers returns what the member is in keys.
func (f *keyField) numbers(keys [][]byte) map[uint64]bool {
	numbers := make(map[uint64]bool)
	for _, key := range keys {
		numbers[nativeUint(f.of(key))] = true
	}
	return numbers
}

// others returns the keys of which every label has the value "other", where the label's type allows it: a label whose values are a fixed list
// without "other" has each of them in turn.
func (l *keyLayout) others() [][]byte {
	keys := [][]byte{make([]byte, l.size)}
	for _, field := range l.fields {
		choices := field.others()
		var next [][]byte
		for _, key := range keys {
			for _, choice := range choices {
				changed := bytes.Clone(key)
				copy(field.of(changed), choice)
				next = append(next, changed)
			}
		}
		keys = next
	}
	return keys
}

// others returns the bytes of the member in the keys of others.
func (f *keyField) others() (choices [][]byte) {
	number := func(n uint64) []byte {
		raw := make([]byte, f.size)
		putNativeUint(raw, n)
		return raw
	}
	switch {
	case f.text:
		return [][]byte{[]byte(other)}
	case f.numbering != nil:
		return [][]byte{number(math.MaxUint64)}
	}
	for n, name := range f.names {
		if name == other {
			return [][]byte{number(n)}
		}
		choices = append(choices, number(n))
	}
	if len(choices) == 0 {
		choices = [][]byte{number(0)}
	}
	return choices
}

// all returns every key of a layout of which the only label is an enumeration, nil for any other layout.
func (l *keyLayout) all() [][]byte {
	if len(l.fields) != 1 || l.fields[0].names == nil || l.fields[0].symbol || l.fields[0].numbering != nil {
		return nil
	}
	var keys [][]byte
	for number := range l.fields[0].names {
		key := make([]byte, l.size)
		putNativeUint(key[l.fields[0].offset:l.fields[0].offset+l.fields[0].size], number)
		keys = append(keys, key)
	}
	return keys
}

func nativeUint(raw []byte) uint64 {
	switch len(raw) {
	case 1:
		return uint64(raw[0])
	case 2:
		return uint64(binary.NativeEndian.Uint16(raw))
	case 4:
		return uint64(binary.NativeEndian.Uint32(raw))
	}
	return binary.NativeEndian.Uint64(raw)
}

func putNativeUint(raw []byte, number uint64) {
	switch len(raw) {
	case 1:
		raw[0] = byte(number)
	case 2:
		binary.NativeEndian.PutUint16(raw, uint16(number))
	case 4:
		binary.NativeEndian.PutUint32(raw, uint32(number))
	default:
		binary.NativeEndian.PutUint64(raw, number)
	}
}
