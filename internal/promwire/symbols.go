package promwire

import "strings"

// symbols are the strings of all that is prepared, each of them once. A string's number is its own for as long as something uses it; 0 is the empty string.
type symbols struct {
	numbers map[string]uint32
	table   []symbol
	free    []uint32
}

type symbol struct {
	text string
	uses int

	request uint64 // the last request that has this string in its table
	ref     uint32 // its place there
}

func newSymbols() *symbols {
	return &symbols{numbers: make(map[string]uint32), table: make([]symbol, 1)}
}

// use gives the number of a string and counts one more use of it.
func (s *symbols) use(text string) uint32 {
	if text == "" {
		return 0
	}
	n, ok := s.numbers[text]
	if !ok {
		text = strings.Clone(text)
		if last := len(s.free) - 1; last >= 0 {
			n, s.free = s.free[last], s.free[:last]
		} else {
			n = uint32(len(s.table))
			s.table = append(s.table, symbol{})
		}
		s.table[n] = symbol{text: text}
		s.numbers[text] = n
	}
	s.table[n].uses++
	return n
}

// drop ends one use of each of the strings.
func (s *symbols) drop(numbers []uint32) {
	for _, n := range numbers {
		y := &s.table[n]
		if y.uses--; n == 0 || y.uses > 0 {
			continue
		}
		delete(s.numbers, y.text)
		*y = symbol{}
		s.free = append(s.free, n)
	}
}
