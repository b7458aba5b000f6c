package conf

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"regexp"
	"slices"
	"strings"
)

// maxDocument bounds every document that is decoded, in bytes. A Kubernetes
// object is at most 1.5 MiB in etcd; a CNI configuration is far smaller.
const maxDocument = 1 << 20

// Strictness is the treatment of a key that the destination does not have.
type Strictness int

const (
	// RefuseUnknown makes every unknown key an error that names the nearest
	// known one.
	RefuseUnknown Strictness = iota
	// RefuseSlips refuses only a key that is one typing slip away from a known
	// one, and one that seems to restrict or isolate; others are let through, each
	// with a warning.
	RefuseSlips
	// refuseSlipsOfConf is for a plexus configuration, or one of Multus: as RefuseSlips, but
	// Multus' own keys and others that seem to restrict are let through too.
	refuseSlipsOfConf
)

// Decode reads one JSON object into the struct that into points to and looks
// for keys that the struct does not have, at every depth. object names the
// document in errors. A key matches regardless of case, as in encoding/json.
func Decode(object string, data []byte, into any, s Strictness) (warnings []string, err error) {
	if len(data) > maxDocument {
		return nil, fmt.Errorf("%s: %d bytes, at most %d are allowed", object, len(data), maxDocument)
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	if err := dec.Decode(into); err != nil {
		return nil, fmt.Errorf("%s: %w", object, ExplainJSON(err, data))
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%s: text after the JSON object", object)
	}
	var raw any
	if err := json.Unmarshal(data, &raw); err != nil {
		return nil, fmt.Errorf("%s: %w", object, ExplainJSON(err, data))
	}
	if _, ok := raw.(map[string]any); !ok {
		return nil, fmt.Errorf("%s: want a JSON object", object)
	}
	k := keyCheck{object: object, strictness: s}
	k.walk("", raw, reflect.TypeOf(into).Elem())
	slices.Sort(k.warnings)
	if more := len(k.warnings) - maxReported; more > 0 {
		k.warnings = append(k.warnings[:maxReported], fmt.Sprintf("%s: %d more keys that are not known", object, more))
	}
	slices.SortFunc(k.errs, func(a, b error) int { return strings.Compare(a.Error(), b.Error()) })
	return k.warnings, joinSome(k.errs)
}

// maxReported bounds the errors, and the warnings, about one document: an annotation could
// otherwise fill logs and the answer to the runtime.
const maxReported = 20

// joinSome joins errors, the first ones.
func joinSome(errs []error) error {
	if more := len(errs) - maxReported; more > 0 {
		errs = append(slices.Clone(errs[:maxReported]), fmt.Errorf("and %d more", more))
	}
	return errors.Join(errs...)
}

// ExplainJSON turns the errors of encoding/json into ones that name the key.
func ExplainJSON(err error, data []byte) error {
	var typeErr *json.UnmarshalTypeError
	var syntaxErr *json.SyntaxError
	switch {
	case errors.As(err, &typeErr) && typeErr.Field != "":
		return fmt.Errorf("key %.80q: want %s, got %.80s", typeErr.Field, jsonKind(typeErr.Type), typeErr.Value)
	case errors.As(err, &typeErr):
		return fmt.Errorf("want %s, got %.80s", jsonKind(typeErr.Type), typeErr.Value)
	case errors.As(err, &syntaxErr):
		line := 1 + bytes.Count(data[:min(int(syntaxErr.Offset), len(data))], []byte("\n"))
		return fmt.Errorf("invalid JSON at line %d: %w", line, err)
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return errors.New("invalid JSON: it ends too early")
	}
	return err
}

func jsonKind(t reflect.Type) string {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch t.Kind() {
	case reflect.Bool:
		return "true or false"
	case reflect.String:
		return "a string"
	case reflect.Slice, reflect.Array:
		return "a list"
	case reflect.Map, reflect.Struct:
		return "an object"
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return "a number of 0 or more in range"
	}
	return "a number in range"
}

type keyCheck struct {
	object     string
	strictness Strictness
	warnings   []string
	errs       []error
}

// walk compares the keys of raw with the fields of t. It does not
// compare keys in maps, raw JSON and values of types with their own UnmarshalJSON.
func (k *keyCheck) walk(path string, raw any, t reflect.Type) {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if reflect.PointerTo(t).Implements(unmarshalerType) {
		return
	}
	switch v := raw.(type) {
	case []any:
		if t.Kind() == reflect.Slice {
			for i, e := range v {
				k.walk(fmt.Sprintf("%s[%d]", path, i), e, t.Elem())
			}
		}
	case map[string]any:
		if t.Kind() != reflect.Struct {
			return
		}
		known := fieldsOf(t)
		for key, value := range v {
			if f, ok := known[strings.ToLower(key)]; ok {
				k.walk(join(path, key), value, f.typ)
				continue
			}
			k.unknown(path, key, value, known)
		}
	}
}

// restriction matches the names of keys that restrict or isolate, in plugins of which plexus
// does not know each key: vlan_trunk, rdmaIsolation, rateLimit. A pod must not get more than
// such a key leaves it because nobody has understood the key.
var restriction = regexp.MustCompile(`(?i:vlan|trunk|qos|isolat|pkey|spoof|trust|bandwidth|polic|secur|firewall|filter|restrict)|` +
	`(?:^|[_-])(?:rate|limit|acls?|allow|deny)|Rate|Limit|ACL|Acl|Allow|Deny`)

// asksNothing reports whether a value turns a key off.
func asksNothing(value any) bool {
	v := reflect.ValueOf(value)
	switch v.Kind() {
	case reflect.Map, reflect.Slice:
		return v.Len() == 0
	case reflect.Invalid:
		return true
	}
	return v.IsZero() || value == "off"
}

func (k *keyCheck) unknown(path, key string, value any, known map[string]field) {
	if path == "" && reserved(key) {
		return
	}
	if _, list := value.([]any); path == "" && k.strictness == refuseSlipsOfConf && ofMultus(key) && !list { // a list of socketDir is meant for socketDirs
		k.warnings = append(k.warnings, fmt.Sprintf("%s: key %q is one of Multus' own and has no effect", k.object, key))
		return
	}
	near, distance := nearest(key, known)
	switch {
	case k.strictness == RefuseUnknown && near != "":
		k.errs = append(k.errs, fmt.Errorf("%s: unknown key %.80q, did you mean %.80q?", k.object, join(path, key), join(path, near)))
	case k.strictness == RefuseUnknown:
		k.errs = append(k.errs, fmt.Errorf("%s: unknown key %.80q: leave it out; docs/configuration.md has the known ones", k.object, join(path, key)))
	case distance == 1 && len(near) > 2:
		k.errs = append(k.errs, fmt.Errorf("%s: unknown key %.80q is one slip away from %.80q: did you mean %.80q?", k.object, join(path, key), join(path, near), join(path, near)))
	case k.strictness == RefuseSlips && restriction.MatchString(key) && !asksNothing(value):
		k.errs = append(k.errs, fmt.Errorf("%s: unknown key %.80q seems to restrict or isolate, and plexus would not: use the keys of docs/networks.md, or leave it out", k.object, join(path, key)))
	default:
		k.warnings = append(k.warnings, fmt.Sprintf("%s: key %.80q is not known to plexus and has no effect", k.object, join(path, key)))
	}
}

func join(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}

// reserved reports whether CNI reserves a top-level key for runtimes and
// libraries (CNI specification 1.1.0, section 1, "plugin configuration
// objects", and the cni.dev/ namespace of GC).
func reserved(key string) bool {
	keys := []string{
		"cniVersion", "cniVersions", "name", "type", "args", "capabilities", "runtimeConfig", "prevResult", "masterplugin",
		"ipam", "ipMasq", "dns", "disableCheck", "disableGC", "loadOnlyInlinedPlugins",
	}
	return slices.Contains(keys, key) || strings.HasPrefix(key, "cni.dev/")
}

// ofMultus reports whether a top-level key is one that Multus' daemon, its shim, its entrypoints
// and its charts write or read (Multus docs/configuration.md, docs/thick-plugin.md), or that its
// first versions read, and that plexus has no use for.
func ofMultus(key string) bool {
	return slices.Contains([]string{
		"cniConf", "additionalBinDir", "always_use_default", "allowTryDeleteOnErr",
		"chrootDir", "cniConfigDir", "daemonSocketDir", "forceCNIVersion", "metricsPort", "multusAutoconfigDir", "multusConfigFile",
		"multusMasterCNI", "overrideNetworkName", "perNodeCertificate", "socketDir",
	}, key)
}

// IsKey reports whether the plexus configuration knows a top-level key.
func IsKey(key string) bool {
	_, known := fieldsOf(reflect.TypeFor[Conf]())[strings.ToLower(key)]
	return known || reserved(key)
}

type field struct {
	name string
	typ  reflect.Type
}

var unmarshalerType = reflect.TypeFor[json.Unmarshaler]()

// fieldsOf lists the JSON keys of a struct type, embedded structs included, by
// their lower-case form.
func fieldsOf(t reflect.Type) map[string]field {
	known := map[string]field{}
	for _, f := range reflect.VisibleFields(t) {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if name == "-" || !f.IsExported() || f.Anonymous && name == "" {
			continue
		}
		name = cmp.Or(name, f.Name)
		known[strings.ToLower(name)] = field{name, f.Type}
	}
	return known
}

// nearest finds the known key with the smallest edit distance; none when the distance is more
// than half of the letters.
func nearest(key string, known map[string]field) (name string, distance int) {
	best := 1 + len(key)/2
	for lower, f := range known {
		d := editDistance(strings.ToLower(key), lower)
		if d < best || d == best && name != "" && f.name < name {
			best, name = d, f.name
		}
	}
	return name, best
}

// editDistance counts the insertions, deletions, substitutions and swaps of
// neighbours that lead from a to b.
func editDistance(a, b string) int {
	if len(a) > 64 || len(b) > 64 {
		return 64
	}
	before, prev, cur := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range prev {
		prev[j] = j
	}
	for i := 1; i <= len(a); i++ {
		cur[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			cur[j] = min(prev[j]+1, cur[j-1]+1, prev[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				cur[j] = min(cur[j], before[j-2]+1)
			}
		}
		before, prev, cur = prev, cur, before
	}
	return prev[len(b)]
}
