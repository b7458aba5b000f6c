package e2e

func faultyRequest() int    { return 0 }
func fakePlugin(string) int { return 0 }
