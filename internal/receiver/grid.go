package receiver

import (
	"math"
	"slices"
	"time"
)

// grid is the row structure of a heatmap: every bound of every column, ascending.
type grid struct {
	edges       []float64
	unit        unit
	exponential bool // values are spread within a bucket as native histograms spread them
}

func newGrid(columns []*distribution, u unit, exponential bool) grid {
	g := grid{unit: u, exponential: exponential}
	seen := map[float64]struct{}{}
	for _, d := range columns {
		if d == nil {
			continue
		}
		for _, b := range d.buckets {
			for _, edge := range [...]float64{b.lower, b.upper} {
				if _, known := seen[edge]; !known {
					seen[edge] = struct{}{}
					g.edges = append(g.edges, edge)
				}
			}
		}
	}
	slices.Sort(g.edges)
	return g
}

// texts are the edges in human units.
func (g grid) texts() []string {
	texts := make([]string, len(g.edges))
	for i, edge := range g.edges {
		texts[i] = g.unit.format(edge)
	}
	return texts
}

// column places a distribution on the grid.
func (g grid) column(at time.Time, d *distribution) column {
	c := column{Time: unix(at)}
	if d == nil {
		return c
	}
	c.Rate, c.Mean, c.Cells = significant(d.rate, rateDigits), g.unit.format(d.mean), []cell{}
	for _, b := range d.buckets {
		if b.rate <= 0 {
			continue
		}
		low, _ := slices.BinarySearch(g.edges, b.lower)
		high, _ := slices.BinarySearch(g.edges, b.upper)
		c.Cells = append(c.Cells, cell{Low: low, High: high, Rate: b.rate})
	}
	for _, v := range d.quantiles {
		c.Quantiles = append(c.Quantiles, g.unit.format(v))
		c.Rows = append(c.Rows, significant(g.row(v), rateDigits))
	}
	return c
}

// row is where a value lies, counted in rows from the lowest edge: 2.5 is in the middle of the third row. -1 when it is outside.
func (g grid) row(v float64) float64 {
	if len(g.edges) < 2 || math.IsNaN(v) || v < g.edges[0] || v > g.edges[len(g.edges)-1] {
		return -1
	}
	i, exact := slices.BinarySearch(g.edges, v)
	if exact {
		return float64(i)
	}
	lower, upper := g.edges[i-1], g.edges[i]
	switch {
	case math.IsInf(lower, -1), math.IsInf(upper, 1):
		return float64(i-1) + 0.5
	case g.exponential && lower > 0:
		return float64(i-1) + math.Log(v/lower)/math.Log(upper/lower)
	}
	return float64(i-1) + (v-lower)/(upper-lower)
}
