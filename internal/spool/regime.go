package spool

import "log/slog"

// regime is a state of the spool that the log names once, when it begins, however long it lasts.
type regime struct{ on bool }

func (r *regime) begin(log func()) {
	if !r.on {
		r.on = true
		log()
	}
}

// regimes are what the spool does to stay within its bounds.
type regimes struct {
	thinning regime // on disk
	dropping regime // on disk, because of size
	expiring regime // on disk, because of age
	memory   regime // dropping from memory
}

// relax ends what the size brought about. It is called when the spool is half empty, so that at the bound nothing begins and ends again and again.
func (r *regimes) relax(log *slog.Logger) {
	if r.thinning.on {
		log.Info("the spool is below half of its size, snapshots are kept at full resolution again")
	}
	r.thinning.on, r.dropping.on = false, false
}
