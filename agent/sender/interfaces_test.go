package sender

import (
	"github.com/latpush/latpush/agent/budget"
	"github.com/latpush/latpush/internal/promwire"
	"github.com/latpush/latpush/internal/spool"
	"github.com/latpush/latpush/internal/spool/quarantine"
	"github.com/latpush/latpush/internal/upload"
)

// The rooms are what the sender takes them for. A Clock is made of two of them by the agent.
var (
	_ Reader     = (*spool.Reader)(nil)
	_ Encoder    = (*promwire.Encoder)(nil)
	_ Client     = (*upload.Client)(nil)
	_ Quarantine = (*quarantine.Store)(nil)
	_ Budget     = (*budget.Budget)(nil)
)
