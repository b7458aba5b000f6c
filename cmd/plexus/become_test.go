package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// As a built-in delegate plexus becomes plexusbuiltin, and plexusd where that is not installed.
func TestBecomes(t *testing.T) {
	dir := t.TempDir()
	bin := filepath.Join(dir, "plexus")
	if out, err := exec.Command("go", "build", "-o", bin, ".").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for _, name := range []string{"plexusd", "plexusbuiltin"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\necho "+name+" $* $(cat)\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	is := func(as, want string) {
		t.Helper()
		cmd := exec.Command(bin)
		cmd.Args[0] = "/elsewhere/" + as
		cmd.Env = []string{"CNI_COMMAND=STATUS", "PATH=" + os.Getenv("PATH")}
		cmd.Stdin = strings.NewReader(`{"name": "n"}`)
		if out, err := cmd.CombinedOutput(); err != nil || string(out) != want+` {"name": "n"}`+"\n" {
			t.Errorf("as %s: %v, %s, want %s", as, err, out, want)
		}
	}
	is("sriov", "plexusbuiltin")
	is("plexus", "plexusd cni plexus")
	is("multus", "plexusd cni multus")
	if err := os.Remove(filepath.Join(dir, "plexusbuiltin")); err != nil {
		t.Fatal(err)
	}
	is("sriov", "plexusd cni sriov")
}
