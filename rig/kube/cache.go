package kube

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// Version is the version of Kubernetes that runs. It is the one that go.mod of
// the module in the folder kubernetes requires.
const Version = "v1.36.3"

// cache is where the prepared programs are.
type cache struct {
	root string // of the repository
	dir  string
}

// A part is a folder of programs in the cache. Its name tells of what it was made,
// so that a part whose recipe has changed is absent.
type part struct{ name, recipe string }

func openCache() (*cache, error) {
	root, err := repository()
	if err != nil {
		return nil, err
	}
	return &cache{root: root, dir: filepath.Join(root, ".cache", "kubernetes", Version)}, nil
}

// repository finds the root of plexus' module: tests run in the folders of their
// packages.
func repository() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", fmt.Errorf("find the repository: %w", err)
	}
	for d := dir; ; d = filepath.Dir(d) {
		text, err := os.ReadFile(filepath.Join(d, "go.mod"))
		if err == nil && bytes.HasPrefix(text, []byte("module github.com/plexus-cni/plexus\n")) {
			return d, nil
		}
		if d == filepath.Dir(d) {
			return "", fmt.Errorf("find the repository: %s is not in it", dir)
		}
	}
}

// source is a folder of package kube.
func (c *cache) source(name string) string { return filepath.Join(c.root, "rig", "kube", name) }

// parts are the parts that the rig runs.
func (c *cache) parts() (kubernetes, debian, pause part, err error) {
	kubernetes = part{name: "kubernetes", recipe: ldflags}
	for _, f := range []string{"go.mod", "go.sum", "main.go"} {
		text, err := os.ReadFile(filepath.Join(c.source("kubernetes"), f))
		if err != nil {
			return part{}, part{}, part{}, fmt.Errorf("read what Kubernetes is made of: %w", err)
		}
		kubernetes.recipe += string(text)
	}
	text, err := os.ReadFile(filepath.Join(c.source("pause"), "main.go"))
	if err != nil {
		return part{}, part{}, part{}, fmt.Errorf("read what pause is made of: %w", err)
	}
	debian = part{name: "debian", recipe: strings.Join(packages, " ") + ": " + strings.Join(programs, " ")}
	return kubernetes, debian, part{name: "pause", recipe: string(text)}, nil
}

// path is the folder of a part.
func (c *cache) path(p part) string {
	sum := sha256.Sum256([]byte(p.recipe))
	return filepath.Join(c.dir, fmt.Sprintf("%s-%x", p.name, sum[:6]))
}

// has tells whether a part is there.
func (c *cache) has(p part) bool {
	_, err := os.Stat(c.path(p))
	return err == nil
}

// add makes a part in a folder beside it and puts it into its place when it is
// complete; those that are older go.
func (c *cache) add(p part, fill func(dir string) error) error {
	if err := os.MkdirAll(c.dir, 0o755); err != nil {
		return fmt.Errorf("make the cache: %w", err)
	}
	tmp, err := os.MkdirTemp(c.dir, "new-")
	if err != nil {
		return fmt.Errorf("make the cache: %w", err)
	}
	defer os.RemoveAll(tmp)
	if err := os.Chmod(tmp, 0o755); err != nil {
		return fmt.Errorf("make the cache: %w", err)
	}
	if err := fill(tmp); err != nil {
		return err
	}
	old, err := filepath.Glob(filepath.Join(c.dir, p.name+"-*"))
	if err != nil {
		return fmt.Errorf("look for what is older in the cache: %w", err)
	}
	for _, o := range old {
		if err := os.RemoveAll(o); err != nil {
			return fmt.Errorf("remove what is older from the cache: %w", err)
		}
	}
	if err := os.Rename(tmp, c.path(p)); err != nil {
		return fmt.Errorf("put %s into the cache: %w", p.name, err)
	}
	return nil
}

// programDirs are the folders of all that the rig runs, or an error that tells
// what to do if they are not prepared.
func (c *cache) programDirs() ([]string, error) {
	kubernetes, debian, pause, err := c.parts()
	if err != nil {
		return nil, err
	}
	var dirs []string
	for _, p := range []part{kubernetes, debian, pause} {
		if !c.has(p) {
			return nil, errors.New(p.name + " is not prepared: run `go run ./rig/kube/prepare`, which takes minutes once")
		}
		dirs = append(dirs, c.path(p))
	}
	return dirs, nil
}
