// Command latpush times kernel operations on this host and pushes the latency histograms by Prometheus remote write.
//
// What enters: flags and a configuration file. What leaves: requests to the receivers, a log on standard error and an exit code, 0 when the
// command did what it is for and 1 otherwise. What can go wrong is said in one message that names the file, the line or the key.
package main

import (
	"fmt"
	"io"
	"log/slog"
	"os"

	"github.com/alecthomas/kingpin/v2"
	"github.com/prometheus/common/promslog"
	promslogflag "github.com/prometheus/common/promslog/flag"
	"github.com/prometheus/common/version"

	"github.com/latpush/latpush/agent/config"
)

func main() {
	os.Exit(execute(os.Args[1:], os.Stdout, os.Stderr))
}

// command is the parsed command line.
type command struct {
	configFile string
	log        *slog.Logger
	stdout     io.Writer
	stderr     io.Writer
}

// execute runs one command line and returns the exit code.
func execute(args []string, stdout, stderr io.Writer) int {
	c := &command{stdout: stdout, stderr: stderr}
	app := kingpin.New("latpush", "Times kernel operations and pushes the latency histograms by Prometheus remote write.")
	app.UsageWriter(stdout).ErrorWriter(stderr)
	app.HelpFlag.Short('h')
	app.Version(version.Print("latpush"))
	app.VersionFlag.Hidden()
	app.Flag("config.file", "Configuration file.").Default(config.DefaultFile).StringVar(&c.configFile)
	logging := &promslog.Config{Writer: stderr}
	promslogflag.AddFlags(app, logging)

	commands := make(map[string]func() error)
	add := func(name, help string, action func() error) {
		app.Command(name, help)
		commands[name] = action
	}
	add("run", "Count, and push until SIGTERM or SIGINT. SIGHUP reloads the configuration.", c.run)
	add("check", "Validate the configuration and print everything that is wrong with it.", c.check)
	add("sources", "Try every source on this kernel and print how it attaches, or why not.", c.sources)
	c.addDetach(app, commands)
	c.addSpool(app, commands)
	c.addStatus(app, commands)
	add("version", "Print the version.", c.version)

	name, err := app.Parse(args) // exits by itself after --help and --version
	if err != nil {
		fmt.Fprintf(stderr, "latpush: %v (see latpush --help)\n", err)
		return 1
	}
	c.log = promslog.New(logging)
	if err := commands[name](); err != nil {
		fmt.Fprintln(stderr, err)
		return 1
	}
	return 0
}

func (c *command) version() error {
	_, err := fmt.Fprintln(c.stdout, version.Print("latpush"))
	return err
}
