package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// describeState writes what a sender keeps beside its position for people. It is a JSON object, whose times are numbers with the unit at the end
// of their keys: last_ms, fell_back_s. Its version says nothing to people, and the parts with parts of their own say too much.
func describeState(state []byte) string {
	if len(state) == 0 {
		return "-"
	}
	var fields map[string]any
	if err := json.Unmarshal(state, &fields); err != nil {
		return fmt.Sprintf("cannot be read: %s", printable(err.Error()))
	}
	delete(fields, "version")
	var words []string
	for _, key := range slices.Sorted(maps.Keys(fields)) {
		switch value := fields[key].(type) {
		case float64:
			words = append(words, describeNumber(key, value))
		case map[string]any, []any:
		default:
			words = append(words, fmt.Sprintf("%s=%v", key, value))
		}
	}
	return printable(strings.Join(words, " "))
}

func describeNumber(key string, value float64) string {
	if name, is := strings.CutSuffix(key, "_ms"); is {
		return name + "=" + moment(time.UnixMilli(int64(value)))
	}
	if name, is := strings.CutSuffix(key, "_s"); is {
		return name + "=" + moment(time.Unix(int64(value), 0))
	}
	return fmt.Sprintf("%s=%v", key, value)
}
