package main

import (
	"bufio"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/latpush/latpush/internal/latency"
	"github.com/latpush/latpush/internal/spool"
)

// dump prints one snapshot.
func (s *spoolCommand) dump() error {
	position, err := parsePosition(s.position)
	if err != nil {
		return err
	}
	contents, err := s.inspect()
	if err != nil {
		return err
	}
	if s.position == "" {
		for _, g := range contents.Segments {
			position = max(position, g.Last)
		}
		if position == 0 {
			return fmt.Errorf("spool %s has no snapshot", contents.Directory)
		}
	}
	snapshot, err := contents.Snapshot(position)
	if errors.Is(err, spool.ErrNoSnapshot) {
		return fmt.Errorf("%w (`latpush spool list` shows which there are; some of them may be thinned out)", err)
	}
	if err != nil {
		return err
	}
	return printSnapshot(s.stdout, position, snapshot)
}

// parsePosition reads a position; no text is position 0.
func parsePosition(text string) (spool.Position, error) {
	if text == "" {
		return 0, nil
	}
	number, err := strconv.ParseUint(text, 10, 63)
	if err != nil || number == 0 {
		return 0, fmt.Errorf("position %q is not a number above 0 (`latpush spool list` shows which there are)", text)
	}
	return spool.Position(number), nil
}

// printSnapshot prints a snapshot as OpenMetrics text, behind two lines of comment that say where it comes from. The timestamps are what the wall
// clock showed, which may be wrong; what is sent is settled then.
func printSnapshot(w io.Writer, position spool.Position, snapshot *latency.Snapshot) error {
	out := bufio.NewWriter(w)
	taken := snapshot.Taken
	fmt.Fprintf(out, "# Snapshot %d, taken %s, %v after the boot with the id %s.\n",
		position, taken.Wall.UTC().Format(time.RFC3339Nano), taken.Boottime, hex.EncodeToString(taken.BootID[:]))
	fmt.Fprintln(out, "# Wall times are those of that moment: a step of the clock is corrected when samples are sent.")
	for i := range snapshot.Families {
		p := familyPrinter{out: out, taken: taken, family: &snapshot.Families[i]}
		p.print()
	}
	fmt.Fprintln(out, "# EOF")
	return out.Flush()
}

// familyPrinter prints one family. Errors are those of out, which Flush returns.
type familyPrinter struct {
	out        *bufio.Writer
	taken      latency.Instant
	family     *latency.Family
	cumulative []uint64
}

func (p *familyPrinter) print() {
	f := p.family
	// In OpenMetrics a counter is called without the end of its samples' names.
	name, suffix, kind := f.Name, "", "gauge"
	switch f.Kind {
	case latency.Counter:
		name, suffix, kind = strings.TrimSuffix(f.Name, "_total"), "_total", "counter"
	case latency.Histogram:
		kind = "histogram"
	case latency.Gauge:
	}
	fmt.Fprintf(p.out, "# TYPE %s %s\n", name, kind)
	if f.Unit != "" && strings.HasSuffix(name, "_"+f.Unit) {
		fmt.Fprintf(p.out, "# UNIT %s %s\n", name, f.Unit)
	}
	if f.Help != "" {
		fmt.Fprintf(p.out, "# HELP %s %s\n", name, escape(f.Help))
	}
	for i := range f.Series {
		series := &f.Series[i]
		if f.Kind == latency.Histogram {
			p.histogram(series)
		} else {
			p.sample(name+suffix, series, "", strconv.FormatFloat(series.Value, 'g', -1, 64))
		}
		if f.Kind != latency.Gauge {
			created := p.taken.Wall.Add(series.Start - p.taken.Boottime)
			p.sample(name+"_created", series, "", seconds(created))
		}
	}
}

func (p *familyPrinter) histogram(series *latency.Series) {
	p.cumulative = latency.Cumulative(p.cumulative, series.Counts)
	var count uint64
	for i, events := range p.cumulative {
		le := latency.LEInf
		if i < len(p.family.Bounds) {
			le = latency.LE(p.family.Bounds[i])
		}
		p.sample(p.family.Name+"_bucket", series, le, strconv.FormatUint(events, 10))
		count = events
	}
	p.sample(p.family.Name+"_sum", series, "", strconv.FormatFloat(latency.Seconds(series.Sum), 'g', -1, 64))
	p.sample(p.family.Name+"_count", series, "", strconv.FormatUint(count, 10))
}

// sample prints one line. An empty le is no label.
func (p *familyPrinter) sample(name string, series *latency.Series, le, value string) {
	var labels []string
	for i, label := range p.family.LabelNames {
		if text := series.LabelValues[i]; text != "" {
			labels = append(labels, label+`="`+escape(text)+`"`)
		}
	}
	if le != "" {
		labels = append(labels, `le="`+le+`"`)
	}
	fmt.Fprint(p.out, name)
	if len(labels) > 0 {
		fmt.Fprintf(p.out, "{%s}", strings.Join(labels, ","))
	}
	fmt.Fprintf(p.out, " %s %s\n", value, seconds(p.taken.Wall))
}

// seconds writes a moment as Unix seconds, to the millisecond, which is what is sent.
func seconds(t time.Time) string { return strconv.FormatFloat(float64(t.UnixMilli())/1e3, 'f', 3, 64) }

// escape writes a text as OpenMetrics wants it in quotes and behind HELP.
func escape(text string) string {
	return strings.NewReplacer(`\`, `\\`, "\n", `\n`, `"`, `\"`).Replace(text)
}
