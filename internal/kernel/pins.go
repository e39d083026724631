package kernel

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
)

const (
	programPrefix = "program-"
	linkPrefix    = "link-"
)

// pinnedState is what has to survive beside the counts. The times are CLOCK_BOOTTIME and durations in nanoseconds.
type pinnedState struct {
	Loaded   uint64 // when counting could begin
	Alive    uint64 // when an agent was known to run
	Detached uint64 // how long no agent and no program was there
	Away     uint64 // how long the programs were detached for what they cost
	CPU      uint64 // what they have taken of it

	Recursion, Missed         uint64 // how often the kernel had not run the programs, at Alive
	GoneRecursion, GoneMissed uint64 // those of them that it no longer says, since the programs are gone
}

// pins is what is pinned of one source.
type pins struct {
	root   *pinPath
	source string // its name
	folder string // of this fingerprint
	state  *ebpf.Map
}

func newPins(root *pinPath, source, fingerprint string) *pins {
	return &pins{root: root, source: source, folder: filepath.Join(root.path, source, fingerprint)}
}

// mapFile returns where a map is pinned. A name cannot begin with the dot of a section there.
func (p *pins) mapFile(name string) string {
	return filepath.Join(p.folder, "maps", strings.TrimPrefix(name, "."))
}

func (p *pins) hooks() string                 { return filepath.Join(p.folder, "hooks") }
func (p *pins) hookFolder(name string) string { return filepath.Join(p.hooks(), name) }
func (p *pins) unfinished() string            { return filepath.Join(p.folder, unfinished) }

// create pins new maps. They are there as a whole or not at all.
func (p *pins) create(maps map[string]*ebpf.Map, state *pinnedState) error {
	created, err := ebpf.NewMap(&ebpf.MapSpec{Name: "latpush_state", Type: ebpf.Array, KeySize: 4, ValueSize: stateBytes, MaxEntries: 1})
	if err != nil {
		return fmt.Errorf("create map of the state: %w", err)
	}
	p.state = created
	if err := p.save(state); err != nil {
		return err
	}
	building := &pins{root: p.root, source: p.source, folder: filepath.Join(p.root.path, p.source, unfinished)}
	if err := p.root.mkdir(building.mapFile("")); err != nil {
		return fmt.Errorf("pin maps: %w", err)
	}
	if err := building.pinMaps(maps); err != nil {
		return err
	}
	if err := p.root.change(func() error { return p.state.Pin(filepath.Join(building.folder, "state")) }); err != nil {
		return fmt.Errorf("pin map of the state: %w", err)
	}
	if err := p.root.rename(building.folder, p.folder); err != nil {
		return fmt.Errorf("pin maps: %w", err)
	}
	return nil
}

const stateBytes = 9 * 8

// save writes down the state.
func (p *pins) save(state *pinnedState) error {
	if err := p.state.Put(uint32(0), state); err != nil {
		return fmt.Errorf("write down the state of source %s: %w", p.source, err)
	}
	return nil
}

// pinMaps pins the maps that are not pinned yet.
func (p *pins) pinMaps(maps map[string]*ebpf.Map) error {
	for name, m := range maps {
		if _, err := os.Lstat(p.mapFile(name)); err == nil || isConstants(name) {
			continue
		}
		if err := p.root.change(func() error { return m.Pin(p.mapFile(name)) }); err != nil {
			return fmt.Errorf("pin map %s: %w", name, err)
		}
	}
	return nil
}

// pinHook pins what is attached, in the order of names, which are those of the programs. Links that this kernel cannot pin leave an empty folder: it says
// that the hook was attached.
func (p *pins) pinHook(hook, how string, names []string, attached []attachment) error {
	folder := filepath.Join(p.unfinished(), how)
	if err := p.root.removeTree(p.unfinished()); err != nil {
		return err
	}
	for _, needed := range []string{folder, p.hooks()} {
		if err := p.root.mkdir(needed); err != nil {
			return fmt.Errorf("pin hook %s: %w", hook, err)
		}
	}
	err := p.pinAttached(folder, names, attached)
	if errors.Is(err, link.ErrNotSupported) {
		if err = p.root.keepPrograms(func() error { return p.root.removeTree(folder) }); err == nil {
			err = p.root.mkdir(folder)
		}
	}
	if err == nil {
		err = p.root.rename(p.unfinished(), p.hookFolder(hook))
	}
	if err != nil {
		return fmt.Errorf("pin hook %s: %w", hook, err)
	}
	return nil
}

// pinOf returns where the link or the program of the given name is pinned. The names are in the order of attaching.
func pinOf(folder, prefix string, place int, name string) string {
	return filepath.Join(folder, fmt.Sprintf("%s%02d-%s", prefix, place, name))
}

func (p *pins) pinAttached(folder string, names []string, attached []attachment) error {
	for i, a := range attached {
		if err := p.root.change(func() error { return a.link.Pin(pinOf(folder, linkPrefix, i, names[i])) }); err != nil {
			return err
		}
		if err := p.root.change(func() error { return a.program.Pin(pinOf(folder, programPrefix, i, names[i])) }); err != nil {
			return err
		}
	}
	return nil
}

// remove removes everything that is pinned of the source.
func (p *pins) remove() error { return errors.Join(p.closeState(), p.root.remove(p.source, "")) }

func (p *pins) closeState() error {
	if p.state == nil {
		return nil
	}
	err := p.state.Close()
	p.state = nil
	return err
}

// loadMaps opens the pinned maps and reads the state. Those that hold no counts may be missing; the second result says whether one is.
func (p *pins) loadMaps(specs map[string]*ebpf.MapSpec, counts func(name string) bool) (loaded map[string]*ebpf.Map, incomplete bool, err error) {
	loaded = make(map[string]*ebpf.Map)
	defer func() {
		if err != nil {
			closeMaps(loaded)
			loaded = nil
		}
	}()
	for name := range specs {
		if isConstants(name) {
			continue
		}
		m, err := ebpf.LoadPinnedMap(p.mapFile(name), nil)
		switch {
		case err == nil:
			loaded[name] = m
		case errors.Is(err, fs.ErrNotExist) && !counts(name):
			incomplete = true
		default:
			return loaded, false, fmt.Errorf("open pinned map %s: %w", name, err)
		}
	}
	return loaded, incomplete, nil
}

// loadState opens the map of the state and reads it.
func (p *pins) loadState() (*pinnedState, error) {
	m, err := ebpf.LoadPinnedMap(filepath.Join(p.folder, "state"), nil)
	if err != nil {
		return nil, fmt.Errorf("open pinned state: %w", err)
	}
	p.state = m
	state := new(pinnedState)
	if err := m.Lookup(uint32(0), state); err != nil {
		return nil, fmt.Errorf("read pinned state: %w", err)
	}
	return state, nil
}

// loadHook opens what is pinned of a hook. Nothing without an error means that there is nothing, or nothing but the sign that it was attached.
func (p *pins) loadHook(h *hook) (attached []attachment, how string, err error) {
	defer func() {
		if err != nil {
			closeAttachments(attached)
			attached = nil
		}
	}()
	for _, w := range h.ways {
		folder := filepath.Join(p.hookFolder(h.name), w.how)
		files, err := os.ReadDir(folder)
		if err != nil || len(files) == 0 {
			continue
		}
		for i, name := range h.programs(w.how) {
			a, err := loadAttachment(folder, i, name)
			if err != nil {
				return attached, "", err
			}
			attached = append(attached, a)
		}
		return attached, w.how, nil
	}
	return nil, "", nil
}

func loadAttachment(folder string, place int, name string) (attachment, error) {
	l, err := link.LoadPinnedLink(pinOf(folder, linkPrefix, place, name), nil)
	if err != nil {
		return attachment{}, fmt.Errorf("open pinned link: %w", err)
	}
	program, err := ebpf.LoadPinnedProgram(pinOf(folder, programPrefix, place, name), nil)
	if err != nil {
		return attachment{}, errors.Join(fmt.Errorf("open pinned program: %w", err), l.Close())
	}
	return attachment{program: program, link: l}, nil
}

// attachedHooks returns the names of the hooks that are pinned, or were attached without being pinned, and whether one was being pinned or removed
// when the agent ended.
func (p *pins) attachedHooks() (names []string, interrupted bool, err error) {
	entries, err := os.ReadDir(p.hooks())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, false, fmt.Errorf("list pinned hooks: %w", err)
	}
	for _, entry := range entries {
		names = append(names, entry.Name())
	}
	_, err = os.Lstat(p.unfinished())
	return names, err == nil, nil
}

// dropHooks removes all hooks, and those of the maps that hold no counts: they may have starts of which nobody saw the end. It writes down the
// state before. What is unfinished stays to the end, so that a start after a crash in between does the same again.
func (p *pins) dropHooks(maps []string, state *pinnedState) error {
	if err := p.root.mkdir(p.unfinished()); err != nil {
		return fmt.Errorf("remove pins: %w", err)
	}
	if err := p.root.rename(p.hooks(), filepath.Join(p.unfinished(), "hooks")); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove pins: %w", err)
	}
	if err := p.save(state); err != nil {
		return err
	}
	for _, name := range maps {
		err := p.root.change(func() error { return os.Remove(p.mapFile(name)) })
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove pin of map %s: %w", name, err)
		}
	}
	return p.root.removeTree(p.unfinished())
}

// isConstants returns whether a map holds the constants of the programs. Each set of programs that is loaded has its own.
func isConstants(name string) bool { return strings.HasPrefix(name, ".rodata") }

func closeMaps(maps map[string]*ebpf.Map) {
	for _, m := range maps {
		_ = m.Close()
	}
}

func closeAttachments(attached []attachment) {
	for _, a := range attached {
		_ = a.close()
	}
}
