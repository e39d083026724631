package receiver

import (
	"context"

	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb"
)

// tracked hands out the storage's appenders and enters what they commit in the ledger.
type tracked struct {
	db     *tsdb.DB
	ledger *ledger
}

// AppenderV2 returns an appender for one remote write request.
func (t tracked) AppenderV2(ctx context.Context) storage.AppenderV2 {
	app := t.db.AppenderV2(ctx)
	exemplars, ok := app.(storage.ExemplarAppenderV2)
	if !ok { // the write handler refuses such an appender with an error of its own
		return app
	}
	return &trackedAppender{ExemplarAppenderV2: exemplars, ledger: t.ledger}
}

// trackedAppender notes each sample that the storage accepted. It belongs to the goroutine of one request.
type trackedAppender struct {
	storage.ExemplarAppenderV2
	ledger  *ledger
	entries []entry
}

// Append passes the sample on to the storage.
func (a *trackedAppender) Append(ref storage.SeriesRef, ls labels.Labels, st, t int64, v float64, h *histogram.Histogram,
	fh *histogram.FloatHistogram, opts storage.AOptions,
) (storage.SeriesRef, error) {
	ref, err := a.ExemplarAppenderV2.Append(ref, ls, st, t, v, h, fh, opts)
	if err == nil {
		a.entries = append(a.entries, newEntry(ls, t, formOf(ls, v, h, fh), opts.Metadata))
	}
	return ref, err
}

// Commit makes the samples visible and enters them in the ledger.
func (a *trackedAppender) Commit() error {
	if err := a.ExemplarAppenderV2.Commit(); err != nil {
		return err
	}
	a.ledger.enter(a.entries)
	return nil
}
