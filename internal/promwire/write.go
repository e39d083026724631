package promwire

import (
	"encoding/binary"
	"math"

	"github.com/latpush/latpush/internal/latency"
)

// writer is the scratch of writing the lines of a label set.
type writer struct {
	times      []times
	values     []float64 // per line, then per step
	cumulative []uint64
	message    message
	histograms []byte // the fields of native histograms

	pieces   [3][]byte // 2.0: the references of the label set's pieces
	pairs    [2][]byte // 2.0: the references of a line's __name__ and le; or all of a relabelled line's labels
	labels   [5][]byte // the labels of a line, in the order in which they are sent
	metadata []byte    // 2.0: the series' metadata field
}

// write writes steps of a label set, as many in one request as there is room for. The series in going are left out.
func (e *Encoder) write(f *family, s *labelSet, fm form, steps []step, going map[string]bool) {
	if len(steps) == 0 {
		return
	}
	e.needRelabeled(f, s, fm)
	lines, once := e.measure(f, s, fm)
	if lines == 0 {
		return
	}
	each := lines * maxSampleSize
	if fm == asNative {
		each = f.native.maxSize(len(f.bounds) + 1)
	}
	for len(steps) > 0 {
		n := min(len(steps), e.out.room(lines, each, once))
		e.writeLines(f, s, fm, steps[:n], going)
		if steps = steps[n:]; len(steps) > 0 {
			e.out.flush() // no request has a series twice
		}
	}
}

// measure gives how many lines there are to send, and an upper bound of the bytes that they take beside their samples.
func (e *Encoder) measure(f *family, s *labelSet, fm form) (lines, size int) {
	const labelFraming = 3 * (1 + maxLengthSize)
	const seriesFraming = 2*(1+maxLengthSize) + 2 + 2 + 2*(1+maxRefSize) // with metadata
	const symbolFraming = 1 + maxLengthSize
	labels, text, names := len(s.symbols)/2+2, s.size+f.longest, f.longest
	if lines = len(f.lines[fm]); len(e.rules) > 0 {
		lines, labels, text = 0, 0, 0
		for i := range s.relabeled[fm] {
			if r := &s.relabeled[fm][i]; r.claim != nil {
				lines, labels, text = lines+1, max(labels, len(r.symbols)/2), max(text, r.size)
			}
		}
		names = text + labels*2*symbolFraming
	}
	if e.out.protocol == V1 {
		return lines, lines * (text + labels*labelFraming + seriesFraming)
	}
	symbols := text + (2*labels+2)*symbolFraming + lines*(names+2*symbolFraming) + len(f.help) + len(f.unit)
	return lines, lines*(labels*2*maxRefSize+seriesFraming) + symbols
}

// writeLines writes all lines of a label set into the open request.
func (e *Encoder) writeLines(f *family, s *labelSet, fm form, steps []step, going map[string]bool) {
	o, before := &e.out, e.out.series
	for i := range f.lines[fm] {
		if len(going) > 0 {
			if e.key = e.identity(e.key[:0], f, s, fm, i); going[string(e.key)] {
				continue
			}
		}
		if len(e.rules) > 0 && !s.relabeled[fm][i].holds(f) {
			continue
		}
		if o.series == before {
			e.prepare(f, s, fm, steps)
		}
		e.label(f, s, fm, i)
		if fm == asNative {
			o.histograms += len(steps)
			e.out.timeSeries(&e.writer, len(e.writer.histograms))
			o.raw = append(o.raw, e.writer.histograms...)
		} else {
			values := e.writer.values[i*len(steps) : (i+1)*len(steps)]
			o.samples += len(steps)
			e.out.timeSeries(&e.writer, samplesSize(values, e.writer.times))
			o.raw = appendSamples(o.raw, values, e.writer.times)
		}
		o.raw = append(o.raw, e.writer.metadata...)
	}
	if o.series == before {
		return
	}
	o.parts = append(o.parts, part{series: o.series - before, samples: len(steps)})
	o.oldest, o.newest = min(o.oldest, steps[0].ms), max(o.newest, steps[len(steps)-1].ms)
}

// prepare fills what the lines of a label set have in common: pieces of labels, metadata and samples.
func (e *Encoder) prepare(f *family, s *labelSet, fm form, steps []step) {
	w := &e.writer
	w.metadata = w.metadata[:0]
	if e.out.protocol == V2 {
		w.metadata = e.appendMetadata(w.metadata, f)
	}
	if len(e.rules) == 0 {
		e.preparePieces(s)
	}
	if fm == asNative {
		e.prepareHistograms(f, steps)
	} else {
		e.prepareSamples(f, steps)
	}
}

// preparePieces fills the pieces of labels that belong to the label set; label fills in what lies between them.
func (e *Encoder) preparePieces(s *labelSet) {
	w := &e.writer
	if e.out.protocol == V1 {
		e.needFields(s)
		w.labels[0], w.labels[2], w.labels[4] = s.fields[0], s.fields[1], s.fields[2]
		return
	}
	for i := range w.pieces {
		w.pieces[i] = e.out.appendRefs(w.pieces[i][:0], s.piece(i)...)
		w.labels[2*i] = w.pieces[i]
	}
}

// label fills in the labels of one line.
func (e *Encoder) label(f *family, s *labelSet, fm form, i int) {
	w, l := &e.writer, &f.lines[fm][i]
	switch {
	case len(e.rules) > 0:
		w.labels = [5][]byte{}
		if symbols := s.relabeled[fm][i].symbols; e.out.protocol == V1 {
			w.pairs[0] = e.appendFields(w.pairs[0][:0], symbols)
		} else {
			w.pairs[0] = e.out.appendRefs(w.pairs[0][:0], symbols...)
		}
		w.labels[0] = w.pairs[0]
	case e.out.protocol == V1:
		w.labels[1], w.labels[3] = l.nameField, l.leField
	default:
		w.pairs[0] = e.out.appendRefs(w.pairs[0][:0], f.nameRef, l.nameRef)
		if w.pairs[1] = w.pairs[1][:0]; l.le != "" {
			w.pairs[1] = e.out.appendRefs(w.pairs[1], f.leRef, l.leRef)
		}
		w.labels[1], w.labels[3] = w.pairs[0], w.pairs[1]
	}
}

// timeSeries appends the beginning of a TimeSeries, up to its samples, which are of the given size.
func (p *packer) timeSeries(w *writer, samples int) {
	labels := 0
	for _, l := range w.labels {
		labels += len(l)
	}
	if p.protocol == V1 {
		p.raw = binary.AppendUvarint(append(p.raw, tagTimeSeries1), uint64(labels+samples))
	} else {
		size := 1 + uvarintSize(labels) + labels + samples + len(w.metadata)
		p.raw = binary.AppendUvarint(append(p.raw, tagTimeSeries2), uint64(size))
		p.raw = binary.AppendUvarint(append(p.raw, tagLabels), uint64(labels))
	}
	for _, l := range w.labels {
		p.raw = append(p.raw, l...)
	}
	p.series++
}

// appendMetadata appends a 2.0 TimeSeries's metadata field. All lines of a histogram have that of the histogram, as those that Prometheus sends have.
func (e *Encoder) appendMetadata(dst []byte, f *family) []byte {
	begin := len(dst) + 2
	dst = append(dst, tagMetadata, 0)
	if e.o.Metadata {
		dst = appendVarint(dst, tagMetadataType, uint64(metadataType(f.kind)))
		dst = appendVarint(dst, tagMetadataHelp, uint64(e.out.ref(f.helpRef)))
		dst = appendVarint(dst, tagMetadataUnit, uint64(e.out.ref(f.unitRef)))
	}
	dst[begin-1] = byte(len(dst) - begin)
	return dst
}

// prepareHistograms fills the fields for native histograms, one for each step.
func (e *Encoder) prepareHistograms(f *family, steps []step) {
	w := &e.writer
	tag := byte(tagHistograms2)
	if e.out.protocol == V1 {
		tag = tagHistograms1
	}
	w.histograms = w.histograms[:0]
	for _, t := range steps {
		var h []byte
		switch {
		case t.series == nil:
			h = w.message.stale(t.ms)
		case e.out.protocol == V1:
			h = w.message.marshal(f.native, t.series, t.ms, 0)
		default:
			h = w.message.marshal(f.native, t.series, t.ms, t.start)
		}
		w.histograms = append(binary.AppendUvarint(append(w.histograms, tag), uint64(len(h))), h...)
	}
}

// prepareSamples fills the values of all lines, and what else their samples have.
func (e *Encoder) prepareSamples(f *family, steps []step) {
	w, n := &e.writer, len(steps)
	w.times, w.values = w.times[:0], w.values[:0]
	for range len(f.lines[asLines]) * n {
		w.values = append(w.values, 0)
	}
	for k, t := range steps {
		if e.out.protocol == V1 {
			t.start = 0
		}
		w.times = append(w.times, newTimes(t.ms, t.start))
		w.fill(f.kind, t.series, k, n)
	}
}

// fill sets the values of all lines of one series at step k of n.
func (w *writer) fill(kind latency.Kind, s *latency.Series, k, n int) {
	switch {
	case s == nil:
		for i := k; i < len(w.values); i += n {
			w.values[i] = math.Float64frombits(staleNaN)
		}
	case kind != latency.Histogram:
		w.values[k] = normal(s.Value)
	default:
		w.cumulative = latency.Cumulative(w.cumulative, s.Counts)
		for i, c := range w.cumulative {
			w.values[i*n+k] = float64(c)
		}
		last := len(w.cumulative)
		w.values[last*n+k] = latency.Seconds(s.Sum)
		w.values[(last+1)*n+k] = float64(w.cumulative[last-1])
	}
}

// identity appends what tells the series of one line from another: nothing for a line that is left out.
func (e *Encoder) identity(dst []byte, f *family, s *labelSet, fm form, i int) []byte {
	if len(e.rules) > 0 {
		return appendSymbols(dst, s.relabeled[fm][i].symbols)
	}
	l := &f.lines[fm][i]
	dst = appendSymbols(appendSymbols(dst, s.piece(0)), []uint32{f.nameRef, l.nameRef})
	dst = appendSymbols(dst, s.piece(1))
	if l.le != "" {
		dst = appendSymbols(dst, []uint32{f.leRef, l.leRef})
	}
	return appendSymbols(dst, s.piece(2))
}
