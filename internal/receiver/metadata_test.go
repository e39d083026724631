package receiver

import (
	"errors"
	"reflect"
	"testing"

	"github.com/golang/snappy"
	"github.com/prometheus/prometheus/prompb"
	"google.golang.org/protobuf/encoding/protowire"
)

// described1 is a request with a series and two descriptions.
func described1() prompb.WriteRequest {
	return prompb.WriteRequest{
		Timeseries: []prompb.TimeSeries{{Labels: []prompb.Label{{Name: "__name__", Value: "a"}}, Samples: []prompb.Sample{{Value: 1, Timestamp: 2}}}},
		Metadata: []prompb.MetricMetadata{
			{Type: prompb.MetricMetadata_HISTOGRAM, MetricFamilyName: "a", Help: "Time.", Unit: "seconds"},
			{Type: prompb.MetricMetadata_COUNTER, MetricFamilyName: "b_total"},
		},
	}
}

func TestDecodeMetadata(t *testing.T) {
	t.Parallel()
	request := described1()
	message, err := request.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	got, err := decodeMetadata(snappy.Encode(nil, message))
	if err != nil || !reflect.DeepEqual(got, request.Metadata) {
		t.Errorf("%v, %v, want %v", got, err, request.Metadata)
	}
	for name, body := range map[string][]byte{
		"not snappy":              {0xff, 0xff, 0xff},
		"cut off in a field":      snappy.Encode(nil, message[:len(message)-1]),
		"not a message":           snappy.Encode(nil, []byte{0x07}),
		"damaged description":     snappy.Encode(nil, protowire.AppendBytes(protowire.AppendTag(nil, metadataField, protowire.BytesType), []byte{0xff})),
		"longer than it declares": append(snappy.Encode(nil, message), 0),
	} {
		if got, err := decodeMetadata(body); err == nil {
			t.Errorf("%s: %v, want an error", name, got)
		}
	}
	huge := protowire.AppendVarint(nil, maxRequestBytes+1)
	if _, err := decodeMetadata(huge); !errors.Is(err, errRequestTooLarge) {
		t.Errorf("huge request: %v, want errRequestTooLarge", err)
	}
}

// FuzzDecodeMetadata compares with the generated decoder: what both read must be the same. Ours is stricter about field numbers that no
// message may have; such a request is passed on to the handler and teaches nothing.
func FuzzDecodeMetadata(f *testing.F) {
	request := described1()
	message, err := request.Marshal()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(message)
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, message []byte) {
		got, err := decodeMetadata(snappy.Encode(nil, message))
		var want prompb.WriteRequest
		if err != nil || want.Unmarshal(message) != nil {
			return
		}
		if len(got) != len(want.Metadata) {
			t.Fatalf("%d descriptions, want %d", len(got), len(want.Metadata))
		}
		for i := range got {
			if got[i].String() != want.Metadata[i].String() {
				t.Errorf("description %d is %v, want %v", i, got[i], want.Metadata[i])
			}
		}
	})
}
