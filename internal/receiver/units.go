package receiver

import (
	"math"
	"strconv"
	"strings"
)

// unit says how the values of a histogram are written for people.
type unit uint8

const (
	unitNone unit = iota
	unitSeconds
	unitBytes
)

// scale is one unit symbol; values from least on are written with it.
type scale struct {
	least  float64
	symbol string
}

// unitOf takes the unit from the metadata, else from the end of the metric's name.
func unitOf(name, declared string) unit {
	switch {
	case declared == "seconds", declared == "" && strings.HasSuffix(name, "_seconds"):
		return unitSeconds
	case declared == "bytes", declared == "" && strings.HasSuffix(name, "_bytes"):
		return unitBytes
	}
	return unitNone
}

func (u unit) scales() []scale {
	switch u {
	case unitSeconds:
		return []scale{{1e-9, " ns"}, {1e-6, " µs"}, {1e-3, " ms"}, {1, " s"}}
	case unitBytes:
		return []scale{{1, " B"}, {1 << 10, " KiB"}, {1 << 20, " MiB"}, {1 << 30, " GiB"}, {1 << 40, " TiB"}}
	default:
		return []scale{{1, ""}, {1e3, " k"}, {1e6, " M"}, {1e9, " G"}}
	}
}

// format writes v with three significant digits in the unit that suits its size: "512 µs", "1.02 ms", "67.1 s", "+Inf".
// NaN, which stands for "there is none", gives "–".
func (u unit) format(v float64) string {
	switch {
	case math.IsNaN(v):
		return "–"
	case math.IsInf(v, 1):
		return "+Inf"
	case math.IsInf(v, -1):
		return "-Inf"
	case v == 0:
		return "0"
	}
	scales := u.scales()
	s := scales[0]
	for _, larger := range scales[1:] {
		if significant(math.Abs(v)/larger.least, 3) >= 1 {
			s = larger
		}
	}
	return strconv.FormatFloat(significant(v/s.least, 3), 'f', -1, 64) + s.symbol
}

// significant rounds v to a number of significant decimal digits.
func significant(v float64, digits int) float64 {
	rounded, err := strconv.ParseFloat(strconv.FormatFloat(v, 'e', digits-1, 64), 64)
	if err != nil { // v is not finite
		return v
	}
	return rounded
}
