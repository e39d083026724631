package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"golang.org/x/sys/unix"

	"github.com/latpush/latpush/internal/receiver"
)

const clearScreen = "\x1b[H\x1b[2J"

// screen is where the tables go. A terminal is drawn over; anything else gets one table after the other.
type screen struct {
	out      *os.File
	terminal bool
}

func newScreen(out *os.File) screen {
	_, err := unix.IoctlGetTermios(int(out.Fd()), unix.TCGETS)
	return screen{out: out, terminal: err == nil}
}

// show draws a text, cut to the terminal's size.
func (s screen) show(text string) error {
	if s.terminal {
		if size, err := unix.IoctlGetWinsize(int(s.out.Fd()), unix.TIOCGWINSZ); err == nil && size.Row > 1 && size.Col > 0 {
			text = crop(text, int(size.Row)-1, int(size.Col))
		}
		text = clearScreen + text
	}
	_, err := io.WriteString(s.out, text)
	return err
}

// crop keeps the first rows and columns of a text.
func crop(text string, rows, columns int) string {
	lines := strings.SplitAfter(text, "\n")
	lines = lines[:min(len(lines), rows)]
	for i, line := range lines {
		if r := []rune(strings.TrimSuffix(line, "\n")); len(r) > columns {
			lines[i] = string(r[:columns]) + "\n"
		}
	}
	return strings.Join(lines, "")
}

// printSummaries draws the table at once and at each interval until ctx ends, the receiver stops or nobody reads it any more.
func printSummaries(ctx context.Context, r *receiver.Receiver, s screen, interval time.Duration) {
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for {
		text := ""
		if summary, err := r.Summary(ctx); err == nil {
			text = table(summary)
		} else if ctx.Err() == nil {
			text = fmt.Sprintf("summary: %v\n", err)
		}
		if err := s.show(text); err != nil {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-r.Done():
			return
		case <-ticker.C:
		}
	}
}

// table writes one line for each histogram.
func table(s *receiver.Summary) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s   %d samples of %d metrics received\n", s.URL, s.Samples, s.Metrics)
	if len(s.Histograms) == 0 {
		fmt.Fprintf(&b, "waiting for the first histogram on %s/api/v1/write\n", s.URL)
		return b.String()
	}
	names := len("histogram") // the first column is aligned to the left by hand
	for _, h := range s.Histograms {
		names = max(names, len(h.Name))
	}
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(w, "%-*s\tkind\tseries\tevents\tevents/s\tp50\tp99\tsamples\tnewest\t\n", names, "histogram")
	for _, h := range s.Histograms {
		fmt.Fprintf(w, "%-*s\t%s\t%d\t%s\t%s\t%s\t%s\t%d\t%s\t\n", names, h.Name, h.Kind, h.Series, number(h.Events), number(h.EventRate),
			h.P50Text, h.P99Text, h.Samples, age(time.Duration(h.AgeSeconds*float64(time.Second))))
	}
	_ = w.Flush() // a strings.Builder takes everything
	return b.String()
}

// number writes a figure with at most two decimals, or a dash for one that is not known.
func number(v *float64) string {
	switch {
	case v == nil:
		return "–"
	case *v >= 100:
		return strconv.FormatFloat(*v, 'f', 0, 64)
	}
	return strconv.FormatFloat(*v, 'f', 2, 64)
}

// age writes how long ago the newest sample was taken.
func age(d time.Duration) string {
	switch {
	case d < 2*time.Minute:
		return strconv.Itoa(int(max(d, 0).Seconds())) + " s ago"
	case d < 2*time.Hour:
		return strconv.Itoa(int(d.Minutes())) + " min ago"
	}
	return strconv.Itoa(int(d.Hours())) + " h ago"
}
