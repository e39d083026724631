package kernel

import (
	"fmt"
	"math"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// DefaultMaxCPU is the bound of sources that have none of their own: one percent of one CPU.
const DefaultMaxCPU = Cores(0.01)

// maxCores is far more than any host has.
const maxCores = Cores(10000)

// Cores is a share of CPU time: 1 is all of one CPU. A configuration file has it as a number, or as a percentage of one CPU.
type Cores float64

// UnmarshalYAML reads a number of CPUs, such as 0.01, or a percentage of one, such as 1%.
func (c *Cores) UnmarshalYAML(node *yaml.Node) error {
	number, percent := strings.CutSuffix(node.Value, "%")
	value, err := strconv.ParseFloat(strings.TrimSpace(number), 64)
	if err != nil || math.IsNaN(value) || node.Kind != yaml.ScalarNode {
		return fmt.Errorf("%q is no share of a CPU (a percentage of one, such as 1%%, or a number of them, such as 0.01)", node.Value)
	}
	if percent {
		value /= 100
	}
	*c = Cores(value)
	return nil
}

// Validate returns an error without a key.
func (c Cores) Validate() error {
	if c < 0 || c > maxCores {
		return fmt.Errorf("%v is not between 0%% and %v of a CPU (0 is no bound)", c, maxCores)
	}
	return nil
}

// String returns the percentage of one CPU.
func (c Cores) String() string { return fmt.Sprintf("%.3g%%", 100*float64(c)) }

// maxCPU returns the bound in force, 0 if there is none.
func (c *SourceConfig) maxCPU() Cores {
	if c.MaxCPU == nil {
		return DefaultMaxCPU
	}
	return *c.MaxCPU
}

// validateMaxCPU returns a *KeyError.
func (c *SourceConfig) validateMaxCPU() error {
	if c.MaxCPU == nil {
		return nil
	}
	if err := c.MaxCPU.Validate(); err != nil {
		return &KeyError{Key: "max_cpu", Err: err}
	}
	return nil
}
