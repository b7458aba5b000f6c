// Command empty does nothing: a measure of how long a static Go program needs
// to start.
package main

func main() {}
