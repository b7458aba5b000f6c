package call

import (
	"runtime/debug"
	"testing"
)

func TestVersion(t *testing.T) {
	setting := func(key, value string) debug.BuildSetting { return debug.BuildSetting{Key: key, Value: value} }
	for want, info := range map[string]debug.BuildInfo{
		"of a development build, go1.26":                                                    {GoVersion: "go1.26"},
		"v1.2.0, commit 0123456789ab of 2026-12-01T00:00:00Z, go1.26":                       {GoVersion: "go1.26", Main: debug.Module{Version: "v1.2.0"}, Settings: []debug.BuildSetting{setting("vcs.revision", "0123456789abcdef"), setting("vcs.time", "2026-12-01T00:00:00Z"), setting("vcs.modified", "false")}},
		"of a development build, commit 0123 of 2026-12-01T00:00:00Z, with changes, go1.26": {GoVersion: "go1.26", Main: debug.Module{Version: "(devel)"}, Settings: []debug.BuildSetting{setting("vcs.revision", "0123"), setting("vcs.time", "2026-12-01T00:00:00Z"), setting("vcs.modified", "true")}},
	} {
		if got := buildVersion(&info); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
	if Version() == "" {
		t.Error("the test has no version")
	}
}
