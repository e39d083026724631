// Package querytest asks a receiver, in tests, what has arrived: PromQL expressions that have one value. A query that has another one, or none, fails
// the test.
package querytest

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/prometheus/prometheus/promql"

	"github.com/latpush/latpush/internal/receiver"
)

// patience is how long a value may take to arrive: several intervals of an agent on an emulated processor.
const patience = 30 * time.Second

// Value returns the one value of a query.
func Value(t *testing.T, r *receiver.Receiver, query string) float64 {
	t.Helper()
	got, err := one(t.Context(), r, query)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// Vector returns the samples of a query.
func Vector(t *testing.T, r *receiver.Receiver, query string) promql.Vector {
	t.Helper()
	vector, err := vector(t.Context(), r, query)
	if err != nil {
		t.Fatal(err)
	}
	return vector
}

// Expect waits until a query has a value.
func Expect(t *testing.T, r *receiver.Receiver, query string, want float64) {
	t.Helper()
	var got float64
	var err error
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(200 * time.Millisecond) {
		if got, err = one(t.Context(), r, query); err == nil && got == want {
			return
		}
	}
	t.Fatalf("query %s: %v, %v, want %v", query, got, err, want)
}

func one(ctx context.Context, r *receiver.Receiver, query string) (float64, error) {
	vector, err := vector(ctx, r, query)
	if err != nil {
		return 0, err
	}
	if len(vector) != 1 {
		return 0, fmt.Errorf("query %s: %v, want one value", query, vector)
	}
	return vector[0].F, nil
}

func vector(ctx context.Context, r *receiver.Receiver, query string) (promql.Vector, error) {
	result, err := r.Query(ctx, query, time.Now())
	if err != nil {
		return nil, err
	}
	vector, ok := result.(promql.Vector)
	if !ok {
		return nil, fmt.Errorf("query %s: %v, want a vector", query, result)
	}
	return vector, nil
}
