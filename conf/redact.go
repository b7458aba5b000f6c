package conf

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"slices"
	"strings"
)

// Hidden is shown instead of a secret.
const Hidden = "(hidden)"

// Redact returns a JSON document for people to see: the values of keys that name
// secrets are Hidden, at any depth. It looks into strings that are JSON themselves, as
// annotations are, into base64 of JSON, as Multus records configurations, and into
// CNI_ARGS. The order of keys stays; spaces do not.
func Redact(document []byte) ([]byte, error) {
	if !json.Valid(document) { // Valid also bounds the depth
		return nil, errors.New("what is to be shown is no JSON")
	}
	d := json.NewDecoder(bytes.NewReader(document))
	d.UseNumber()
	var out bytes.Buffer
	if err := redactValue(d, &out, false); err != nil && err != io.EOF {
		return nil, err
	}
	return out.Bytes(), nil
}

// redactValue copies the next value, or writes Hidden for it.
func redactValue(d *json.Decoder, out *bytes.Buffer, secret bool) error {
	if secret {
		var value json.RawMessage
		if err := d.Decode(&value); err != nil {
			return err
		}
		if text := string(value); text != "null" && text != `""` {
			value, _ = json.Marshal(Hidden)
		}
		out.Write(value)
		return nil
	}
	token, err := d.Token()
	if err != nil {
		return err
	}
	switch token := token.(type) {
	case json.Delim:
		return redactList(d, out, token)
	case string:
		writeJSON(out, redactText(token))
	default:
		writeJSON(out, token)
	}
	return nil
}

// redactList copies an object or a list whose first character is read.
func redactList(d *json.Decoder, out *bytes.Buffer, open json.Delim) error {
	out.WriteByte(byte(open))
	hide := false
	for n := 0; d.More(); n++ {
		if n > 0 {
			out.WriteByte(',')
		}
		if open == '[' {
			start := out.Len()
			if err := redactValue(d, out, n == 1 && hide); err != nil {
				return err
			}
			if n == 0 { // ["SECRET", "value"], as CNI_ARGS are recorded
				var name string
				hide = json.Unmarshal(out.Bytes()[start:], &name) == nil && isSecret(name)
			}
			continue
		}
		key, err := d.Token()
		if err != nil {
			return err
		}
		writeJSON(out, key)
		out.WriteByte(':')
		if err := redactValue(d, out, isSecret(key.(string))); err != nil {
			return err
		}
	}
	end, err := d.Token()
	if err == nil {
		out.WriteByte(byte(end.(json.Delim)))
	}
	return err
}

// redactText hides the secrets of a string that is a document itself. One without
// secrets stays as it is.
func redactText(text string) string {
	if inner, ok := redactInner([]byte(text)); ok {
		return string(inner)
	}
	if raw, err := base64.StdEncoding.DecodeString(text); err == nil {
		if inner, ok := redactInner(raw); ok {
			return base64.StdEncoding.EncodeToString(inner)
		}
	}
	pairs := strings.Split(text, ";")
	for i, pair := range pairs {
		if key, value, ok := strings.Cut(pair, "="); ok && value != "" && isSecret(key) && !strings.ContainsAny(key, " \t\n{\"") {
			pairs[i] = key + "=" + Hidden
		}
	}
	return strings.Join(pairs, ";")
}

// redactInner returns false for a text that is no object or list, or has no secrets.
func redactInner(text []byte) ([]byte, bool) {
	if trimmed := bytes.TrimSpace(text); len(trimmed) == 0 || trimmed[0] != '{' && trimmed[0] != '[' {
		return nil, false
	}
	inner, err := Redact(text)
	return inner, err == nil && bytes.Contains(inner, []byte(Hidden))
}

// isSecret reports whether a key names a secret, in any spelling that a plugin accepts:
// encoding/json matches letters of either case, the long s and the Kelvin sign too.
func isSecret(key string) bool {
	key = strings.ToLower(strings.ToUpper(key))
	words := []string{"secret", "passw", "passphrase", "token", "credential"}
	return slices.ContainsFunc(words, func(word string) bool { return strings.Contains(key, word) }) ||
		strings.HasSuffix(key, "key") && !strings.HasSuffix(key, "publickey")
}

// writeJSON writes a token without escaping characters of HTML.
func writeJSON(out *bytes.Buffer, token json.Token) {
	e := json.NewEncoder(out)
	e.SetEscapeHTML(false)
	if e.Encode(token) == nil { // a token of valid JSON can always be encoded
		out.Truncate(out.Len() - 1) // the end of the line
	}
}
