package main

import (
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// What encoding/json would do, at the price of a tenth of a millisecond.
// plexusd reads the whole configuration, and says what is wrong with it.

// agentSocket is the socket of the node agent, "" when the configuration names none
// or is no JSON object.
func agentSocket(config string) string {
	socket := ""
	s := scanner{text: config}
	s.object(func(key string) {
		if key != "agent" {
			s.value()
			return
		}
		socket = ""
		if s.next() != '{' {
			s.value()
			return
		}
		s.object(func(key string) {
			if key == "socket" && s.next() == '"' {
				socket = s.string()
				return
			}
			s.value()
		})
	})
	if s.next(); s.bad || s.at < len(config) {
		return ""
	}
	return socket
}

// scanner reads JSON (RFC 8259).
type scanner struct {
	text  string
	at    int
	depth int
	bad   bool
}

// maxDepth bounds what is nested, as encoding/json does.
const maxDepth = 10000

// next is the next character that is no space, 0 at the end; it stays.
func (s *scanner) next() byte {
	for ; !s.bad && s.at < len(s.text); s.at++ {
		switch c := s.text[s.at]; c {
		case ' ', '\t', '\r', '\n':
		default:
			return c
		}
	}
	return 0
}

// take passes over a character, which has to be there.
func (s *scanner) take(c byte) {
	if s.next() != c {
		s.bad = true
		return
	}
	s.at++
}

// object passes over an object. member has to pass over the value of each key.
func (s *scanner) object(member func(key string)) {
	s.list('{', '}', func() {
		key := s.string()
		s.take(':')
		member(key)
	})
}

func (s *scanner) list(open, end byte, element func()) {
	if s.depth++; s.depth > maxDepth {
		s.bad = true
	}
	s.take(open)
	if s.next() != end {
		for element(); s.next() == ','; element() {
			s.at++
		}
	}
	s.take(end)
	s.depth--
}

// value passes over a value.
func (s *scanner) value() {
	switch c := s.next(); {
	case c == '{':
		s.object(func(string) { s.value() })
	case c == '[':
		s.list('[', ']', s.value)
	case c == '"':
		s.string()
	case c == '-' || c >= '0' && c <= '9' || c >= 'a' && c <= 'z': // a number, true, false, null
		for s.at < len(s.text) && word(s.text[s.at]) {
			s.at++
		}
	default:
		s.bad = true
	}
}

func word(c byte) bool {
	return c == '-' || c == '+' || c == '.' || c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
}

// string reads a string.
func (s *scanner) string() string {
	s.take('"')
	var read []byte
	for ; !s.bad && s.at < len(s.text); s.at++ {
		switch c := s.text[s.at]; {
		case c == '"':
			s.at++
			return string(read)
		case c < ' ':
			s.bad = true
		case c == '\\':
			s.at++
			read = utf8.AppendRune(read, s.escaped())
		default:
			read = append(read, c)
		}
	}
	s.bad = true
	return ""
}

// escaped is what stands behind a backslash; its last character stays.
func (s *scanner) escaped() rune {
	if s.at < len(s.text) {
		c := s.text[s.at]
		if at := strings.IndexByte(`"\/bfnrt`, c); at >= 0 {
			return rune("\"\\/\b\f\n\r\t"[at])
		}
		if c == 'u' {
			first := s.hex(s.at)
			if second := s.hex(s.at + 6); utf16.IsSurrogate(first) && s.at+6 < len(s.text) && s.text[s.at+5:s.at+7] == `\u` && second >= 0 {
				if r := utf16.DecodeRune(first, second); r != utf8.RuneError {
					s.at += 10
					return r
				}
			}
			if first >= 0 {
				s.at += 4
				return first // half of a pair is written as the replacement character
			}
		}
	}
	s.bad = true
	return 0
}

// hex is the number of four digits behind a position, -1 when they are not there.
func (s *scanner) hex(at int) rune {
	if at+5 > len(s.text) {
		return -1
	}
	n, err := strconv.ParseUint(s.text[at+1:at+5], 16, 16)
	if err != nil {
		return -1
	}
	return rune(n)
}

// quote is a text as a JSON string.
func quote(text string) string {
	out := []byte{'"'}
	for _, r := range text {
		switch {
		case r == '"' || r == '\\':
			out = append(out, '\\', byte(r))
		case r == '\n':
			out = append(out, '\\', 'n')
		case r < ' ' || r == 0x7f:
			out = append(out, "\\u00"...)
			out = append(out, strconv.FormatInt(0x100+int64(r), 16)[1:]...)
		default:
			out = utf8.AppendRune(out, r)
		}
	}
	return string(append(out, '"'))
}
