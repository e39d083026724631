package kernel

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"maps"
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
		if named, ok := member.Type.(*btf.Typedef); ok && named.Name == symbolType {
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

func (l *keyLayout) labels() []string {
	var labels []string
	for _, field := range l.fields {
		labels = append(labels, field.label)
	}
	return labels
}

// values returns the label values of a key.
func (l *keyLayout) values(key []byte) []string {
	values := make([]string, 0, len(l.fields))
	for _, field := range l.fields {
		values = append(values, field.value(key[field.offset:field.offset+field.size]))
	}
	return values
}

func (f *keyField) value(raw []byte) string {
	if f.text {
		text, _, _ := bytes.Cut(raw, []byte{0})
		return strings.ToValidUTF8(string(text), "\ufffd")
	}
	number := nativeUint(raw)
	if name, ok := f.names[number]; ok {
		return name
	}
	if f.symbol {
		return other
	}
	return strconv.FormatUint(number, 10)
}

// hasFunctions returns whether a label is the name of a function.
func (l *keyLayout) hasFunctions() bool {
	return slices.ContainsFunc(l.fields, func(f keyField) bool { return f.symbol })
}

// learn looks up the names of the functions in keys that have not been seen before. Those that have none are "other".
func (l *keyLayout) learn(keys [][]byte) error {
	for _, field := range l.fields {
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

// other returns the key of which every label has the value "other", where the label's type allows it.
func (l *keyLayout) other() []byte {
	key := make([]byte, l.size)
	for _, field := range l.fields {
		raw := key[field.offset : field.offset+field.size]
		if field.text {
			copy(raw, other)
			continue
		}
		for number, name := range field.names {
			if name == other {
				putNativeUint(raw, number)
			}
		}
	}
	return key
}

// all returns every key of a layout of which the only label is an enumeration, nil for any other layout.
func (l *keyLayout) all() [][]byte {
	if len(l.fields) != 1 || l.fields[0].names == nil || l.fields[0].symbol {
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
