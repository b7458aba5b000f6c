package peers

import (
	"fmt"
	"reflect"
	"strings"
)

// difference is one way in which plexus does not do what the peer does.
type difference struct {
	kind   string // outcome, calls, args, config, answer, routes, status
	detail string
}

// compare lists the differences between what a peer and plexus did.
func compare(peer, own *recording) (all []difference) {
	for i, p := range peer.Steps {
		all = append(all, compareStep(p, own.Steps[i])...)
		if (p.Error == "") != (own.Steps[i].Error == "") {
			return all // what follows from it is no news
		}
	}
	if !same(peer.Status, own.Status) {
		all = append(all, difference{"status", fmt.Sprintf("network-status\n peer %s\n own  %s", textOf(peer.Status), textOf(own.Status))})
	}
	return all
}

func compareStep(peer, own step) (all []difference) {
	differs := func(kind, what string, p, o any) {
		all = append(all, difference{kind, fmt.Sprintf("%s %s\n peer %s\n own  %s", peer.Verb, what, textOf(p), textOf(o))})
	}
	if (peer.Error == "") != (own.Error == "") {
		differs("outcome", "outcome", "error: "+peer.Error, "error: "+own.message)
		return all
	}
	if !same(peer.Answer, own.Answer) {
		differs("answer", "answer", peer.Answer, own.Answer)
	}
	if !reflect.DeepEqual(peer.Routes, own.Routes) {
		differs("routes", "default routes", peer.Routes, own.Routes)
	}
	if p, o := sequence(peer.Calls), sequence(own.Calls); p != o {
		differs("calls", "calls", p, o)
		return all
	}
	for i, p := range peer.Calls {
		o := own.Calls[i]
		what := fmt.Sprintf("%s of %s %s", p.Verb, p.Type, p.IfName)
		if !reflect.DeepEqual(p.Args, o.Args) {
			differs("args", what+": CNI_ARGS", p.Args, o.Args)
		}
		if !same(p.Config, o.Config) {
			differs("config", what+": configuration", p.Config, o.Config)
		}
	}
	return all
}

// sequence is the order of calls as text.
func sequence(calls []call) string {
	var all []string
	for _, c := range calls {
		all = append(all, strings.TrimSpace(c.Verb+" "+c.Type+" "+c.IfName))
	}
	return strings.Join(all, ", ")
}

// same compares JSON values. One that is empty or false is the same as one that is missing.
func same(a, b any) bool { return reflect.DeepEqual(filled(a), filled(b)) }

// filled is a JSON value without empty lists, empty objects, false and null.
func filled(v any) any {
	switch v := v.(type) {
	case map[string]any:
		out := map[string]any{}
		for key, value := range v {
			if value = filled(value); value != nil {
				out[key] = value
			}
		}
		if len(out) == 0 {
			return nil
		}
		return out
	case []any:
		var out []any
		for _, value := range v {
			out = append(out, filled(value))
		}
		if len(out) == 0 {
			return nil
		}
		return out
	case bool:
		if !v {
			return nil
		}
	}
	return v
}
