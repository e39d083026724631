package kernel

import (
	"fmt"
	"math"
	"time"
)

// BucketsConfig describes bucket bounds in exactly one of four ways.
type BucketsConfig struct {
	Exp2        *Exp2Config        `yaml:"exp2,omitempty"`
	Linear      *LinearConfig      `yaml:"linear,omitempty"`
	Exponential *ExponentialConfig `yaml:"exponential,omitempty"`
	Bounds      []Duration         `yaml:"bounds,omitempty"`
}

// ExponentialConfig describes the bounds of a standard native histogram: 2^Schema of them to each power of two seconds, from the last one that is at most Min
// to the first one that is at least Max.
type ExponentialConfig struct {
	Schema int      `yaml:"schema"`
	Min    Duration `yaml:"min"`
	Max    Duration `yaml:"max"`
}

// Exp2Config describes Count bounds of which the first is Min and each further one is twice the one before.
type Exp2Config struct {
	Min   Duration `yaml:"min"`
	Count int      `yaml:"count"`
}

// LinearConfig describes Count bounds of which the first is Start and each further one is Width above the one before.
type LinearConfig struct {
	Start Duration `yaml:"start"`
	Width Duration `yaml:"width"`
	Count int      `yaml:"count"`
}

// Duration is a bucket bound or width as written in the configuration file: a number with a unit from ns to h, such as 250us or 1.5ms.
type Duration time.Duration

// UnmarshalText parses a duration as time.ParseDuration does.
func (d *Duration) UnmarshalText(text []byte) error {
	parsed, err := time.ParseDuration(string(text))
	if err != nil {
		return fmt.Errorf("parse duration %q (a number with a unit: ns, us, ms, s, m or h)", text)
	}
	*d = Duration(parsed)
	return nil
}

// MarshalText writes the duration as time.Duration.String does.
func (d Duration) MarshalText() ([]byte, error) { return []byte(time.Duration(d).String()), nil }

// Nanoseconds returns the bucket bounds of a valid description in ascending order.
func (b *BucketsConfig) Nanoseconds() []uint64 {
	switch {
	case b.Exp2 != nil:
		bounds := make([]uint64, b.Exp2.Count)
		for i := range bounds {
			bounds[i] = uint64(b.Exp2.Min) << i
		}
		return bounds
	case b.Linear != nil:
		bounds := make([]uint64, b.Linear.Count)
		for i := range bounds {
			bounds[i] = uint64(b.Linear.Start) + uint64(i)*uint64(b.Linear.Width)
		}
		return bounds
	case b.Exponential != nil:
		return exponentialBounds(int32(b.Exponential.Schema), uint64(b.Exponential.Min), uint64(b.Exponential.Max))
	}
	bounds := make([]uint64, len(b.Bounds))
	for i, bound := range b.Bounds {
		bounds[i] = uint64(bound)
	}
	return bounds
}

func (b *BucketsConfig) validate() error {
	ways := 0
	for _, given := range []bool{b.Exp2 != nil, b.Linear != nil, b.Exponential != nil, b.Bounds != nil} {
		if given {
			ways++
		}
	}
	if ways != 1 {
		return keyErrorf("buckets", "exactly one of exp2, linear, exponential and bounds is needed, not %d", ways)
	}
	switch {
	case b.Exp2 != nil:
		return b.Exp2.validate()
	case b.Linear != nil:
		return b.Linear.validate()
	case b.Exponential != nil:
		return b.Exponential.validate()
	}
	return validateBounds(b.Bounds)
}

func (e *Exp2Config) validate() error {
	if err := validateCount("buckets.exp2.count", e.Count); err != nil {
		return err
	}
	if e.Min <= 0 {
		return keyErrorf("buckets.exp2.min", "%v is not above zero", time.Duration(e.Min))
	}
	if e.Count > 63 || int64(e.Min) > math.MaxInt64>>(e.Count-1) {
		return keyErrorf("buckets.exp2.count", "%d doublings of %v pass the largest duration, 292 years", e.Count-1, time.Duration(e.Min))
	}
	return nil
}

func (l *LinearConfig) validate() error {
	if err := validateCount("buckets.linear.count", l.Count); err != nil {
		return err
	}
	if l.Start <= 0 {
		return keyErrorf("buckets.linear.start", "%v is not above zero", time.Duration(l.Start))
	}
	if l.Width <= 0 {
		return keyErrorf("buckets.linear.width", "%v is not above zero", time.Duration(l.Width))
	}
	if int64(l.Width) > (math.MaxInt64-int64(l.Start))/int64(l.Count) {
		return keyErrorf("buckets.linear.width", "%d times %v passes the largest duration, 292 years", l.Count, time.Duration(l.Width))
	}
	return nil
}

// minExponential is the smallest bound at which no two of the finest schema are the same in whole nanoseconds.
const minExponential = Duration(16 * time.Nanosecond)

// validate bounds no count: from minExponential to the largest duration, the finest schema has 473 bounds.
func (e *ExponentialConfig) validate() error {
	const key = "buckets.exponential"
	switch {
	case e.Schema < 0 || e.Schema > MaxSchema:
		return keyErrorf(key+".schema", "%d is not between 0 and %d (2^schema buckets to each power of two)", e.Schema, MaxSchema)
	case e.Min < minExponential:
		return keyErrorf(key+".min", "%v is below %v", time.Duration(e.Min), time.Duration(minExponential))
	case e.Max <= e.Min:
		return keyErrorf(key+".max", "%v is not above min, %v", time.Duration(e.Max), time.Duration(e.Min))
	}
	return nil
}

func validateCount(key string, count int) error {
	if count < 1 || count > MaxBounds {
		return keyErrorf(key, "%d buckets (between 1 and %d are possible)", count, MaxBounds)
	}
	return nil
}

func validateBounds(bounds []Duration) error {
	if err := validateCount("buckets.bounds", len(bounds)); err != nil {
		return err
	}
	previous := Duration(0)
	for i, bound := range bounds {
		key := fmt.Sprintf("buckets.bounds[%d]", i)
		if bound <= 0 {
			return keyErrorf(key, "%v is not above zero", time.Duration(bound))
		}
		if bound <= previous {
			return keyErrorf(key, "%v is not above the bound before it, %v (bounds must ascend)", time.Duration(bound), time.Duration(previous))
		}
		previous = bound
	}
	return nil
}
