package promwire

// Protocol is the message of a request, by the name that protobuf_message has for it in a configuration.
type Protocol string

// The messages of remote write 1.0 and of 2.0.
const (
	V1 Protocol = "prometheus.WriteRequest"
	V2 Protocol = "io.prometheus.write.v2.Request"
)

// headers gives the values of the Content-Type and X-Prometheus-Remote-Write-Version headers.
func (p Protocol) headers() (contentType, version string) {
	if p == V2 {
		return "application/x-protobuf;proto=" + string(V2), "2.0.0"
	}
	return "application/x-protobuf", "0.1.0"
}

// Histogram is a way to send a histogram.
type Histogram string

// The ways to send a histogram.
const (
	// Classic is lines: _bucket, _sum and _count. Every receiver takes them.
	Classic Histogram = "classic"

	// Custom is one native histogram of schema -53, which has the same bounds. Remote write 1.0 has no field for the bounds, so there it is Classic.
	Custom Histogram = "custom"

	// Exponential is one native histogram of schema 0 to 3, for a family whose bounds are those of such a schema. Any other family is sent as Custom.
	Exponential Histogram = "exponential"
)

// form is what one label set is made of in a message.
type form uint8

const (
	asLines  form = iota // samples: a counter or gauge, or the lines of a classic histogram
	asNative             // native histograms
	forms
)

// form gives the form of a family in a protocol.
func (e *Encoder) form(f *family) form {
	switch {
	case f.native == nil:
		return asLines
	case e.out.protocol == V2, e.o.NativeInV1 && f.native.schema != customSchema:
		return asNative
	}
	return asLines
}
