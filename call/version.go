package call

import (
	"fmt"
	"runtime/debug"
)

// Version is the version of the running executable, with the commit that it was built from and
// the commit's date, as far as the Go tool has recorded them.
func Version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "of an unknown build"
	}
	return buildVersion(info)
}

func buildVersion(info *debug.BuildInfo) string {
	settings := map[string]string{}
	for _, s := range info.Settings {
		settings[s.Key] = s.Value
	}
	text := info.Main.Version
	if text == "" || text == "(devel)" {
		text = "of a development build"
	}
	if revision := settings["vcs.revision"]; revision != "" {
		text = fmt.Sprintf("%s, commit %.12s of %s", text, revision, settings["vcs.time"])
	}
	if settings["vcs.modified"] == "true" {
		text += ", with changes"
	}
	return text + ", " + info.GoVersion
}
