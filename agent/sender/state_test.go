package sender

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/latpush/latpush/agent/budget"
	"github.com/latpush/latpush/internal/spool"
)

func TestStateThatCannotBeRead(t *testing.T) {
	t.Parallel()
	for name, text := range map[string]string{
		"no JSON":           "\x00\x01",
		"cut short":         `{"version":1,"last_ms":17`,
		"another version":   `{"version":2,"last_ms":1700000000000}`,
		"no version":        `{}`,
		"a negative time":   `{"version":1,"last_ms":-1}`,
		"a time of no date": `{"version":1,"last_ms":9223372036854775807}`,
		"a text for a time": `{"version":1,"last_ms":"yesterday"}`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if got, err := decodeState([]byte(text)); !errors.Is(err, errBadState) || got != (state{Version: stateVersion}) {
				t.Errorf("%+v, %v", got, err)
			}
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t, numbered(1, 1))
				b.queue.state = []byte(text)
				b.run()
				b.wantOnes(1)
				b.wantLogged(1, "bad sender state")
				b.stop()
				if _, err := decodeState(b.queue.state); err != nil {
					t.Errorf("the state is not replaced: %v", err)
				}
			})
		})
	}
}

func TestStateOfANewReceiver(t *testing.T) {
	t.Parallel()
	got, err := decodeState(nil)
	if err != nil || got != (state{Version: stateVersion}) {
		t.Errorf("%+v, %v", got, err)
	}
}

// The largest state fits a cursor.
func TestStateIsSmall(t *testing.T) {
	t.Parallel()
	wall := time.Unix(1<<33, 123456789)
	s := state{Version: stateVersion, Last: lastMillisecond, TookV2: true, FellBack: 1 << 40, Budget: &budget.State{
		BootID: make([]byte, 16), Boottime: 1 << 62, Wall: &wall, Spent: make([]budget.Spending, 24*4+1),
	}}
	for i := range s.Budget.Spent {
		s.Budget.Spent[i] = budget.Spending{Age: 24 * time.Hour, Bytes: 100 << 30}
	}
	encoded, err := json.Marshal(s)
	if err != nil || len(encoded) > spool.MaxState {
		t.Errorf("%d bytes, %v", len(encoded), err)
	}
	read, err := decodeState(encoded)
	again, _ := json.Marshal(read)
	if err != nil || string(again) != string(encoded) {
		t.Errorf("read %s, %v", again, err)
	}
	if strings.Contains(string(encoded), "\n") {
		t.Error("more than one line")
	}
}
