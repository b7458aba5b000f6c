package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"unicode"
	"unicode/utf16"

	"github.com/spf13/cobra"
	"sigs.k8s.io/yaml"
)

// form is the value of flag --output.
type form string

// The forms. JSON and YAML are the agent's answer as it is.
const (
	asTable form = "table"
	asWide  form = "wide"
	asJSON  form = "json"
	asYAML  form = "yaml"
)

func forms() []string {
	return []string{string(asTable), string(asWide), string(asJSON), string(asYAML)}
}

// formFlag adds --output.
func formFlag(c *cobra.Command) *form {
	f := asTable
	c.Flags().VarP(&f, "output", "o", "`form`: "+strings.Join(forms(), ", "))
	_ = c.RegisterFlagCompletionFunc("output", cobra.FixedCompletions(forms(), cobra.ShellCompDirectiveNoFileComp)) // fails without the flag
	return &f
}

// String is pflag.Value.
func (f *form) String() string { return string(*f) }

// Type is pflag.Value.
func (f *form) Type() string { return "form" }

// Set is pflag.Value.
func (f *form) Set(value string) error {
	if !slices.Contains(forms(), value) {
		return fmt.Errorf("allowed are %s", strings.Join(forms(), ", "))
	}
	*f = form(value)
	return nil
}

// print writes an answer in its form; people tells it to people.
func (f form) print(out io.Writer, answer []byte, people func() error) error {
	switch f {
	case asJSON:
		return indented(out, answer, surrogates)
	case asYAML:
		text, err := yaml.JSONToYAML(answer)
		if err != nil {
			return err
		}
		if bytes.ContainsFunc(text, func(r rune) bool { return r != '\n' && hidden(r) }) {
			return indented(out, answer, func(r rune) string { return fmt.Sprintf(`\U%08x`, r) }) // JSON is YAML, and has an escape for everything
		}
		_, err = out.Write(text)
		return err
	}
	return people()
}

// hidden are characters that control a terminal or are invisible. Names and error texts are
// not trusted: they come from all over the cluster.
func hidden(r rune) bool { return r == unicode.ReplacementChar || !unicode.IsPrint(r) }

// clean is a text for one line of a terminal.
func clean(text string) string {
	text = strings.ReplaceAll(text, "\n", "; ")
	if !strings.ContainsFunc(text, hidden) {
		return text
	}
	var b strings.Builder
	for _, r := range text {
		if hidden(r) {
			quoted := strconv.QuoteRuneToASCII(r)
			b.WriteString(quoted[1 : len(quoted)-1])
		} else {
			b.WriteRune(r)
		}
	}
	return b.String()
}

// cleanLines is a text of several lines for a terminal.
func cleanLines(text string) string { return strings.Join(cleaned(text), "\n") }

func cleaned(text string) []string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	for i := range lines {
		lines[i] = clean(lines[i])
	}
	return lines
}

// indented writes JSON and escapes characters that control a terminal; only its strings can
// have them. beyond is the escape of what has no \u in YAML.
func indented(out io.Writer, answer []byte, beyond func(rune) string) error {
	var text bytes.Buffer
	if err := json.Indent(&text, bytes.TrimSpace(answer), "", "  "); err != nil {
		return err
	}
	var b strings.Builder
	for _, r := range text.String() {
		switch {
		case r == '\n' || !hidden(r):
			b.WriteRune(r)
		case r > 0xffff:
			b.WriteString(beyond(r))
		default:
			fmt.Fprintf(&b, `\u%04x`, r)
		}
	}
	_, err := fmt.Fprintln(out, b.String())
	return err
}

// surrogates are the escape of JSON (RFC 8259 section 7).
func surrogates(r rune) string {
	high, low := utf16.EncodeRune(r)
	return fmt.Sprintf(`\u%04x\u%04x`, high, low)
}

// table is written column by column, with the node first where there are several.
type table struct {
	w     *tabwriter.Writer
	nodes bool
}

func (o *options) table(out io.Writer, head ...string) *table {
	return newTable(out, o.cluster != nil, head...)
}

func newTable(out io.Writer, nodes bool, head ...string) *table {
	t := &table{tabwriter.NewWriter(out, 0, 0, 2, ' ', 0), nodes}
	t.row("NODE", head...)
	return t
}

// row writes a line. An empty cell is "-".
func (t *table) row(node string, cells ...string) {
	if t.nodes {
		cells = append([]string{node}, cells...)
	}
	line := make([]string, len(cells))
	for i, cell := range cells {
		if line[i] = clean(cell); cell == "" {
			line[i] = "-"
		}
	}
	fmt.Fprintln(t.w, strings.Join(line, "\t"))
}

// rows are a line for each of a text, which is the last cell.
func (t *table) rows(text, node string, cells ...string) {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	t.row(node, append(cells, lines[0])...)
	for _, line := range lines[1:] {
		more := make([]string, len(cells), len(cells)+2)
		if t.nodes {
			more = append(more, "")
		}
		fmt.Fprintln(t.w, strings.Join(append(more, clean(line)), "\t"))
	}
}

func (t *table) end() error { return t.w.Flush() }
