package kernel

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"
)

// kallsyms lists the symbols of the kernel and of its modules, one per line: address, type, name, and the module in brackets.
const kallsyms = "/proc/kallsyms"

// functions are the types of symbols that are code.
const functions = "tTwW"

// eachSymbol calls f with the address, the type and the name of each symbol until f returns false. The name is valid until f returns.
func eachSymbol(f func(address uint64, kind byte, name []byte) bool) error {
	file, err := os.Open(kallsyms)
	if err != nil {
		return fmt.Errorf("read the kernel's symbols: %w", err)
	}
	defer func() { _ = file.Close() }()
	scanner := bufio.NewScanner(file)
	for scanner.Scan() {
		first, rest, _ := bytes.Cut(scanner.Bytes(), []byte(" "))
		kind, rest, _ := bytes.Cut(rest, []byte(" "))
		name, _, _ := bytes.Cut(rest, []byte("\t"))
		address, err := strconv.ParseUint(string(first), 16, 64)
		if err == nil && len(kind) == 1 && len(name) > 0 && !f(address, kind[0], name) {
			return nil
		}
	}
	if err := scanner.Err(); err != nil {
		return fmt.Errorf("read the kernel's symbols: %w", err)
	}
	return nil
}

// hasSymbol returns whether the kernel or a module that is loaded has a symbol. A kernel that does not list its symbols may have any.
func hasSymbol(name string) bool {
	found := false
	err := eachSymbol(func(_ uint64, _ byte, symbol []byte) bool {
		found = string(symbol) == name
		return !found
	})
	return found || err != nil
}

// symbolsHidden returns whether the kernel lists its symbols without their addresses.
func symbolsHidden() bool {
	hidden := true
	err := eachSymbol(func(address uint64, _ byte, _ []byte) bool {
		hidden = address == 0
		return hidden
	})
	return hidden || err != nil
}

// functionNames returns the names of the functions at the given addresses, without what the compiler appended to them. An address without a
// name is left out: its module is gone, or the kernel does not show addresses to this process (CAP_SYSLOG, kernel.kptr_restrict). Data can have the
// address of no function and yet a small one, of a place in the memory of each CPU.
func functionNames(addresses map[uint64]bool) (map[uint64]string, error) {
	names := make(map[uint64]string, len(addresses))
	err := eachSymbol(func(address uint64, kind byte, symbol []byte) bool {
		if _, known := names[address]; addresses[address] && !known && strings.IndexByte(functions, kind) >= 0 {
			name, _, _ := bytes.Cut(symbol, []byte("."))
			names[address] = string(name)
		}
		return len(names) < len(addresses)
	})
	return names, err
}
