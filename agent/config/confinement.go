package config

// confinementKey is the key of the block.
const confinementKey = "confinement"

// Confinement is the `confinement:` block. A part that the kernel does not have, or that a container does not allow, is said so once in the log, and
// the others are in force all the same.
type Confinement struct {
	// Capabilities gives up those that nothing needs any more.
	Capabilities bool `yaml:"capabilities"`
	// Landlock leaves the files that the configuration names and those of the system that a running agent reads.
	Landlock bool `yaml:"landlock"`
	// Seccomp refuses system calls that an agent never makes.
	Seccomp bool `yaml:"seccomp"`
}

// Files returns the files that the receivers name.
func (c *Config) Files() []string {
	var files []string
	for i := range c.RemoteWrite {
		files = append(files, c.RemoteWrite[i].Files()...)
	}
	return files
}
