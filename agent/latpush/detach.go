package main

import (
	"errors"
	"fmt"
	"path/filepath"

	"github.com/alecthomas/kingpin/v2"

	"github.com/latpush/latpush/agent/config"
	"github.com/latpush/latpush/agent/identity"
	"github.com/latpush/latpush/internal/kernel"
)

// detachCommand is `latpush detach`.
type detachCommand struct {
	*command
	pinPath string // "" for that of the configuration
}

func (c *command) addDetach(app *kingpin.Application, commands map[string]func() error) {
	d := &detachCommand{command: c}
	clause := app.Command("detach", "Remove the programs that an agent has left in the kernel, and their counts.")
	clause.Flag("pin-path", "Directory of the pins. The default is pin_path of the configuration file.").StringVar(&d.pinPath)
	commands["detach"] = d.run
}

// run removes what is left and says what it was.
func (d *detachCommand) run() error {
	if d.pinPath == "" {
		loaded, err := config.Load(d.configFile, identity.Read())
		if err != nil {
			return err
		}
		d.pinPath = loaded.PinPath
	}
	if d.pinPath == "" {
		_, err := fmt.Fprintln(d.stdout, "nothing to remove: pin_path is empty")
		return err
	}
	path := filepath.Clean(d.pinPath)
	sources, probes, err := kernel.Detach(path)
	for _, source := range sources {
		fmt.Fprintf(d.stdout, "removed source %s from %s\n", source, path)
	}
	for _, probe := range probes {
		fmt.Fprintf(d.stdout, "removed probe %s\n", probe)
	}
	if errors.Is(err, kernel.ErrPinPathInUse) {
		return fmt.Errorf("%s: an agent is running: nothing is removed (stop it, which removes its programs: systemctl stop latpush)", path)
	}
	if err == nil && len(sources)+len(probes) == 0 {
		_, err = fmt.Fprintf(d.stdout, "nothing to remove in %s\n", path)
	}
	return err
}
