// Package debian fetches Debian packages of any suite and architecture and keeps them unpacked in a cache folder, without touching the machine's
// own apt configuration, lists or installed packages.
//
// In: a suite, an architecture and a rule that says which packages are wanted (a [Resolver]). Out: one folder per package, unpacked, named after the
// exact package version, so that a folder never changes once it is there.
//
// The mirror, its proxy and its credentials are those that the machine's apt already uses; signatures are checked with Debian's archive keyring. A set
// of packages is looked up again at most once a day; between that, and for as long as the mirror cannot be reached, the cache answers alone. Downloads
// land in a temporary folder that is renamed when complete, and one lock file per cache keeps concurrent runs apart.
//
// What can go wrong: no apt, no Debian mirror among apt's sources, no archive keyring, an unreachable mirror with an empty cache, a package that the
// suite does not have. Every error names the suite and the architecture, and what to do.
package debian
