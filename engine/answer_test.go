package engine

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containernetworking/cni/pkg/types"
	"golang.org/x/sys/unix"
)

// What a plugin writes and ends well with is a result, or ADD fails with the plugin and
// what it wrote. What libcni accepts of old plugins is accepted.
func TestWhatAPluginAnswers(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ name, answer, failed string }{
		{"a result", `{"cniVersion": "1.0.0", "ips": [{"address": "192.0.2.7/24"}]}`, ""},
		{"without a version", `{"ips": [{"address": "192.0.2.7/24"}]}`, ""},
		{"an empty version", `{"cniVersion": "", "ips": [{"address": "192.0.2.7/24"}]}`, ""},
		{"an empty object", `{}`, ""},
		{"a version alone", `{"cniVersion": "1.0.0"}`, ""},
		{"dns alone", `{"cniVersion": "1.0.0", "dns": {"nameservers": ["192.0.2.1"]}}`, ""},
		{"of version 0.2.0", `{"cniVersion": "0.2.0", "ip4": {"ip": "192.0.2.7/24"}, "dns": {}}`, ""},
		{"with a word of its own", `{"cniVersion": "1.0.0", "msg": "hello", "code": 7, "ips": [{"address": "192.0.2.7/24"}]}`, ""},
		{"space around it", " \n{}\n\n", ""},

		{"nothing", ``, "wrote nothing"},
		{"space", " \n", "wrote nothing"},
		{"null", `null`, `"null"`},
		{"a list", `[]`, `"[]"`},
		{"a text", `"ok"`, `ok`},
		{"a number", `0`, `"0"`},
		{"no JSON", `done.`, `done.`},
		{"half of it", `{"cniVersion": "1.0.0", "ips": [`, `ips`},
		{"two", `{}{}`, `{}{}`},
		{"an error", `{"cniVersion": "1.0.0", "code": 7, "msg": "no address is free"}`, "no address is free"},
		{"an error without a version", `{"code": 11, "msg": "later"}`, "later"},
		{"a code alone", `{"code": 100}`, `code`},
		{"a message alone", `{"msg": "no address is free"}`, "no address is free"},
		{"an error with empty keys", `{"code": 7, "msg": "no address is free", "ips": [], "interfaces": null, "dns": {}}`, "no address is free"},
		{"a code that is none", `{"code": "seven", "msg": "no address is free"}`, "no address is free"},
	} {
		t.Run(test.name, func(t *testing.T) {
			e, r, dir := standalone(t, `cat > config; [ $CNI_COMMAND != ADD ] || cat answer`)
			if err := os.WriteFile(filepath.Join(dir, "answer"), []byte(test.answer), 0o600); err != nil {
				t.Fatal(err)
			}
			_, err := e.Add(t.Context(), r)
			if test.failed == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			if err == nil || !strings.Contains(strings.ReplaceAll(err.Error(), `\`, ""), test.failed) || !strings.Contains(err.Error(), "plugin") {
				t.Errorf("%v, want the plugin and %q", err, test.failed)
			}
			if err != nil && strings.Contains(err.Error(), "internal error") {
				t.Error(err)
			}
			if got := executed(t, dir); strings.Join(got, " ") != "ADD DEL" {
				t.Errorf("executed %v, want ADD and what undoes it", got)
			}
		})
	}
}

// A plugin that writes without end is killed and ADD says why; what it says to people is
// bounded too.
func TestARunawayPlugin(t *testing.T) {
	t.Parallel()
	for name, text := range map[string]string{
		"for ever":             `[ $CNI_COMMAND = ADD ] && exec yes`,
		"a GB":                 `[ $CNI_COMMAND = ADD ] && head -c 1000000000 /dev/zero`,
		"just too much":        `[ $CNI_COMMAND = ADD ] && head -c 4194305 /dev/zero`,
		"by a child, for ever": `[ $CNI_COMMAND = ADD ] && { yes & echo $! > child; wait; }`,
	} {
		t.Run(name, func(t *testing.T) {
			e, r, dir := standalone(t, text+"\nexit 0")
			_, err := e.Add(t.Context(), r)
			if err == nil || !strings.Contains(err.Error(), "4194304 bytes") || !strings.Contains(err.Error(), "plugin") {
				t.Errorf("%.300v, want the plugin and the bound", err)
			}
			ended(t, filepath.Join(dir, "child"))
		})
	}
	var stderr bytes.Buffer
	e, r, _ := standalone(t, answers+"; head -c 100000000 /dev/zero | tr '\\0' x >&2; echo the end >&2")
	e.Stderr = &stderr
	if _, err := e.Add(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	if stderr.Len() > 64<<10 || !strings.HasSuffix(stderr.String(), "xthe end\n") {
		t.Errorf("%d bytes for people, %.40q", stderr.Len(), stderr.String())
	}
}

// An answer of the bound is read whole.
func TestALargeAnswer(t *testing.T) {
	t.Parallel()
	e, r, _ := standalone(t, `[ $CNI_COMMAND = ADD ] || exit 0; printf '{"cniVersion": "1.0.0"'; head -c 4194281 /dev/zero | tr '\0' ' '; printf '}'`)
	if _, err := e.Add(t.Context(), r); err != nil {
		t.Error(err)
	}
}

// A child that keeps the standard output of its parent, which has ended, does not keep
// the verb.
func TestAPluginThatLeavesAChild(t *testing.T) {
	t.Parallel()
	e, r, dir := standalone(t, `[ $CNI_COMMAND = ADD ] || exit 0; sleep 1000 & echo $! > child; echo '{"cniVersion": "1.0.0", "ips": [{"address": "192.0.2.7/24"}]}'`)
	result, err := e.Add(t.Context(), r)
	if err != nil || len(result.IPs) != 1 {
		t.Errorf("%v, %v", result, err)
	}
	if err := unix.Kill(pidIn(t, filepath.Join(dir, "child")), unix.SIGKILL); err != nil {
		t.Errorf("its child: %v", err) // a daemon goes on
	}
}

// A plugin that is killed by others takes its children with it, before ADD is undone.
func TestAPluginThatIsKilled(t *testing.T) {
	t.Parallel()
	e, r, dir := standalone(t, `[ $CNI_COMMAND = ADD ] || exit 0; sleep 1000 & echo $! > child; kill -9 $$`)
	_, err := e.Add(t.Context(), r)
	var failed *types.Error
	if !errors.As(err, &failed) || !strings.Contains(failed.Msg, "killed") {
		t.Errorf("%v, want that it was killed", err)
	}
	ended(t, filepath.Join(dir, "child"))
}

func pidIn(t *testing.T, file string) (pid int) {
	t.Helper()
	data, err := os.ReadFile(file)
	if err == nil {
		_, err = fmt.Sscan(string(data), &pid)
	}
	if err != nil {
		t.Fatal(err)
	}
	return pid
}

// ended wants that the process of a PID file, if there is one, ends.
func ended(t *testing.T, file string) {
	t.Helper()
	if _, err := os.Stat(file); err != nil {
		return
	}
	pid := pidIn(t, file)
	t.Cleanup(func() { _ = unix.Kill(pid, unix.SIGKILL) })
	await(t, fmt.Sprintf("the end of process %d", pid), func() bool { return !running(pid) })
}

// running: a zombie has ended.
func running(pid int) bool {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	_, after, _ := strings.Cut(string(data), ") ")
	return !strings.HasPrefix(after, "Z") && !strings.HasPrefix(after, "X")
}
