package engine

import (
	"maps"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/containernetworking/plugins/plugins/ipam/host-local/backend/allocator"

	"github.com/plexus-cni/plexus/conf"
	"github.com/plexus-cni/plexus/delegates/userspace"
	"github.com/plexus-cni/plexus/ovsdpdk"
	"github.com/plexus-cni/plexus/sriov"
	"github.com/plexus-cni/plexus/vppmemif"
)

// harmless are keys whose text is no address, path, file name, group, mode or
// secret: words of a fixed set, versions, addresses of the pod that are parsed. Each
// is checked where it is read.
var harmless = map[string]string{
	"plexus":     "cniVersion name type delegates logLevel globalNamespaces systemNamespaces multusNamespace result capabilities runtimeConfig pluginTimeout devices",
	"ovsdpdk":    "vhost.mode mac logLevel",
	"vppmemif":   "role mode mac",
	"sriov":      "vlanProto mac spoofchk trust link_state baseline.vlanProto baseline.mac baseline.spoofchk baseline.trust baseline.link_state logLevel runtimeConfig", // its keys are rows of runtimeConfig
	"userspace":  "name logLevel host.engine host.iftype host.netType host.memif.role host.memif.mode host.vhost.mode container.engine container.iftype container.netType container.memif.role container.memif.mode container.vhost.mode",
	"annotation": "portMappings.protocol portMappings.hostIP ipam-claim-reference",
	"host-local": "type Name rangeStart rangeEnd subnet.IP subnet.Mask gateway",
}

// TestSecurityTable holds the table of docs/security.md against the code: each key
// with a text is in the table, or known to be harmless, and each key of the table is
// read.
func TestSecurityTable(t *testing.T) {
	types := map[string]reflect.Type{
		"plexus": reflect.TypeFor[conf.Conf](), "ovsdpdk": reflect.TypeFor[ovsdpdk.Config](), "vppmemif": reflect.TypeFor[vppmemif.Config](),
		"sriov": reflect.TypeFor[sriov.Config](), "userspace": reflect.TypeFor[userspace.Config](), "annotation": reflect.TypeFor[conf.Selection](),
		"host-local": reflect.TypeFor[allocator.IPAMConfig](),
	}
	table := securityTable(t)
	for of, typ := range types {
		known := textKeys(typ, "", nil)
		if of == "host-local" { // addresses are parsed by their type
			known = slices.DeleteFunc(known, func(key string) bool { return strings.HasPrefix(key, "ranges") || strings.HasPrefix(key, "routes") })
		}
		for _, key := range known {
			listed, plain := table[of][key], slices.Contains(strings.Fields(harmless[of]), key)
			if listed == plain {
				t.Errorf("%s: key %q: in the table of docs/security.md: %v, known as harmless: %v: it belongs to one of them", of, key, listed, plain)
			}
		}
		for _, key := range append(slices.Collect(maps.Keys(table[of])), strings.Fields(harmless[of])...) {
			if !slices.Contains(known, key) {
				t.Errorf("%s: key %q is listed, and nobody reads it", of, key)
			}
		}
	}
	for of := range table {
		if types[of] == nil && of != "" && of != "runtimeConfig" && of != "volume" && of != "device-info" {
			t.Errorf("the table has keys of %q, which is no configuration", of)
		}
	}
}

// securityTable are the keys of the table, by the configuration that they are of.
func securityTable(t *testing.T) map[string]map[string]bool {
	t.Helper()
	text, err := os.ReadFile("../docs/security.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), "| key | who sets it | what bounds it |\n")
	code := regexp.MustCompile("`([^`]+)`")
	table := map[string]map[string]bool{}
	for line := range strings.Lines(rest) {
		if !strings.HasPrefix(line, "|") {
			break
		}
		cell, _, _ := strings.Cut(line[1:], " |")
		before, _, ok := strings.Cut(cell, "`")
		if !ok { // the rule below the heads
			continue
		}
		of := strings.TrimPrefix(strings.TrimSpace(before), "ipam ")
		if table[of] == nil {
			table[of] = map[string]bool{}
		}
		for _, key := range code.FindAllStringSubmatch(cell, -1) {
			table[of][key[1]] = true
		}
	}
	if len(table) < 6 {
		t.Fatalf("docs/security.md has keys of %v only", slices.Collect(maps.Keys(table)))
	}
	return table
}

// textKeys are the paths of keys whose values are texts, or raw JSON.
func textKeys(typ reflect.Type, path string, all []string) []string {
	for typ.Kind() == reflect.Pointer || typ.Kind() == reflect.Slice && typ.Elem().Kind() != reflect.Uint8 {
		typ = typ.Elem()
	}
	switch typ.Kind() {
	case reflect.String, reflect.Map, reflect.Interface:
		return append(all, path)
	case reflect.Slice: // of bytes: raw JSON
		return append(all, path)
	case reflect.Struct:
	default:
		return all
	}
	for i := range typ.NumField() {
		f := typ.Field(i)
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		switch {
		case f.Anonymous && name == "":
			all = textKeys(f.Type, path, all)
		case !f.IsExported() || name == "-":
		default:
			if name == "" {
				name = f.Name
			}
			all = textKeys(f.Type, strings.TrimPrefix(path+"."+name, "."), all)
		}
	}
	return all
}
