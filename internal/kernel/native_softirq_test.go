package kernel

import (
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// within returns whether got is want, give or take some part of it and a few at the edges of the measurement.
func within(got, want, part, few uint64) bool {
	slack := want/part + few
	return got+slack >= want && got <= want+slack
}

// softirqs returns how often each soft interrupt was handled since boot.
func softirqs(t *testing.T) map[string]uint64 {
	t.Helper()
	handled := map[string]uint64{}
	for _, fields := range procFields(t, "/proc/softirqs")[1:] {
		name := strings.ToLower(strings.TrimSuffix(fields[0], ":"))
		for _, count := range fields[1:] {
			handled[name] += parse(t, count)
		}
	}
	return handled
}

func TestSoftirqsAgreeWithProc(t *testing.T) {
	for _, how := range []string{TpBTF, RawTracepoint, Tracepoint} {
		t.Run(how, func(t *testing.T) {
			k := open(t, how, SourceConfig{Name: "softirq"})
			before := map[string]uint64{}
			vectors := []string{"timer", "net_rx", "sched", "rcu"}
			for _, vector := range vectors {
				before[vector] = events(sample(t, k, "softirq_service_seconds", vector))
			}
			handled := softirqs(t)
			exchangeDatagrams(t, 2000)
			handledAfter := softirqs(t)
			for _, vector := range vectors {
				got, want := events(sample(t, k, "softirq_service_seconds", vector))-before[vector], handledAfter[vector]-handled[vector]
				if !within(got, want, 50, 20) {
					t.Errorf("counted %d handlers of %s, the kernel %d", got, vector, want)
				}
				if vector == "net_rx" && want < 1000 {
					t.Errorf("2000 datagrams raised net_rx %d times", want)
				}
				if waits := events(sample(t, k, "softirq_latency_seconds", vector)); !within(waits, got+before[vector], 20, 40) {
					t.Errorf("counted %d waits and %d handlers of %s", waits, got+before[vector], vector)
				}
			}
		})
	}
}

// exchangeDatagrams sends n datagrams over loopback, one after the other.
func exchangeDatagrams(t *testing.T, n int) {
	t.Helper()
	receiver, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(receiver)
	if err := unix.Bind(receiver, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	address, err := unix.Getsockname(receiver)
	if err != nil {
		t.Fatal(err)
	}
	for range n {
		if err := unix.Sendto(receiver, []byte("x"), 0, address); err != nil {
			t.Fatal(err)
		}
		if _, _, err := unix.Recvfrom(receiver, make([]byte, 8), 0); err != nil {
			t.Fatal(err)
		}
	}
}
