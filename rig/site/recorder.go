package site

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Recorder is a CNI plugin for tests, this test's executable under that name:
// it passes prevResult on, or has the addresses that it is asked for, writes each command that it gets into the file
// that its configuration names, and fails on the command that it is told to.
const Recorder = "recorder"

func recorderPlugin() int {
	stdin, err := io.ReadAll(os.Stdin)
	var c struct {
		Log        string          `json:"log"`
		Fail       string          `json:"fail"` // a file; its text is the command to fail
		PrevResult json.RawMessage `json:"prevResult"`
		CNIVersion string          `json:"cniVersion"`
		DeviceInfo json.RawMessage `json:"deviceInfo"` // written where the runtime says
		Runtime    struct {
			File string   `json:"CNIDeviceInfoFile"`
			IPs  []string `json:"ips"`
		} `json:"runtimeConfig"`
	}
	if err == nil {
		err = json.Unmarshal(stdin, &c)
	}
	command := os.Getenv("CNI_COMMAND")
	if err == nil && c.Log != "" {
		var f *os.File
		if f, err = os.OpenFile(c.Log, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600); err == nil {
			_, err = fmt.Fprintf(f, "%s %s %s\n", command, os.Getenv("CNI_IFNAME"), stdin)
		}
	}
	if told, errRead := os.ReadFile(c.Fail); errRead == nil && string(told) == command {
		err = fmt.Errorf("told to fail")
	}
	if err == nil && command == "ADD" && len(c.DeviceInfo) > 0 {
		err = os.WriteFile(c.Runtime.File, c.DeviceInfo, 0o600)
	}
	if err != nil {
		fmt.Printf(`{"code": 123, "msg": %q}`, err)
		return 1
	}
	if command == "ADD" {
		if len(c.PrevResult) == 0 {
			var ips []map[string]string
			for _, address := range c.Runtime.IPs {
				ips = append(ips, map[string]string{"address": address})
			}
			c.PrevResult, _ = json.Marshal(map[string]any{"cniVersion": c.CNIVersion, "ips": ips})
		}
		fmt.Printf("%s", c.PrevResult)
	}
	return 0
}

// InstallRecorder puts the plugin into a folder of CNI_PATH.
func (s *Site) InstallRecorder() {
	s.T.Helper()
	dir := filepath.Join(s.Dir, "plugins")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		s.T.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		s.T.Fatal(err)
	}
	if err := os.Symlink(self, filepath.Join(dir, Recorder)); err != nil {
		s.T.Fatal(err)
	}
	s.Path += ":" + dir
}

// Recorded are the commands that a recorder got, "VERB ifname".
func Recorded(t testing.TB, file string) []string {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var commands []string
	for line := range strings.Lines(string(data)) {
		words := strings.Fields(line)
		commands = append(commands, words[0]+" "+words[1])
	}
	return commands
}
