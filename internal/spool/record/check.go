package record

import (
	"fmt"

	"github.com/latpush/latpush/internal/latency"
)

// check returns ErrInvalid or ErrTooLarge when the snapshot cannot be written so that it reads back equal.
func check(snapshot *latency.Snapshot) error {
	counts := 0
	for i := range snapshot.Families {
		family := &snapshot.Families[i]
		if err := checkFamily(family); err != nil {
			return fmt.Errorf("%w: family %q: %w", ErrInvalid, family.Name, err)
		}
		if family.Kind == latency.Histogram {
			counts += len(family.Series) * (len(family.Bounds) + 1)
		}
	}
	if counts > maxCounts {
		return fmt.Errorf("%w: %d bucket counts, at most %d fit in a record", ErrTooLarge, counts, maxCounts)
	}
	return nil
}

func checkFamily(family *latency.Family) error {
	switch family.Kind {
	case latency.Histogram:
	case latency.Counter, latency.Gauge:
		if len(family.Bounds) != 0 {
			return fmt.Errorf("kind %d has bucket bounds", family.Kind)
		}
	default:
		return fmt.Errorf("unknown kind %d", family.Kind)
	}
	for i := 1; i < len(family.Bounds); i++ {
		if family.Bounds[i] <= family.Bounds[i-1] {
			return fmt.Errorf("bound %d is not above the one before it", family.Bounds[i])
		}
	}
	for i := range family.Series {
		if err := checkSeries(family, &family.Series[i]); err != nil {
			return fmt.Errorf("series %d %q: %w", i, family.Series[i].LabelValues, err)
		}
	}
	return nil
}

func checkSeries(family *latency.Family, series *latency.Series) error {
	if len(series.LabelValues) != len(family.LabelNames) {
		return fmt.Errorf("%d label values for %d label names", len(series.LabelValues), len(family.LabelNames))
	}
	if family.Kind == latency.Histogram {
		if len(series.Counts) != len(family.Bounds)+1 {
			return fmt.Errorf("%d counts for %d bounds", len(series.Counts), len(family.Bounds))
		}
		return nil
	}
	if len(series.Counts) != 0 || series.Sum != 0 {
		return fmt.Errorf("kind %d has bucket counts or a sum", family.Kind)
	}
	return nil
}
