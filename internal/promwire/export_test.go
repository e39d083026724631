package promwire

// CachedLabelSets counts the label sets that are prepared, over all families.
func (e *Encoder) CachedLabelSets() int {
	n := 0
	for _, variants := range e.families {
		for _, f := range variants {
			n += len(f.sets)
		}
	}
	return n
}

// Bodies counts the request bodies that are kept to be used again.
func (e *Encoder) Bodies() int { return len(e.out.bodies) }

// CachedFamilies counts the families that are prepared, each shape of a name by itself.
func (e *Encoder) CachedFamilies() int {
	n := 0
	for _, variants := range e.families {
		n += len(variants)
	}
	return n
}

// Symbols counts the strings that are kept.
func (e *Encoder) Symbols() int { return len(e.symbols.numbers) }

// Claims counts the relabelled series that are kept.
func (e *Encoder) Claims() int { return len(e.claims) }
