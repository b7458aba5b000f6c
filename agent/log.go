package agent

import (
	"io"
	"log/slog"

	"gopkg.in/natefinch/lumberjack.v2"

	"github.com/plexus-cni/plexus/conf"
)

// openLog makes the log that a configuration asks for: standard error unless
// logToStderr is false, and logFile, rotated by logOptions as Multus does.
func openLog(c *conf.Conf, stderr io.Writer) (log *slog.Logger, done func()) {
	level := map[conf.LogLevel]slog.Level{
		conf.LogDebug: slog.LevelDebug, conf.LogVerbose: slog.LevelInfo, conf.LogError: slog.LevelWarn, conf.LogPanic: slog.LevelError,
	}[c.LogLevel]
	var to []io.Writer
	done = func() {}
	if c.LogToStderr == nil || *c.LogToStderr {
		to = append(to, stderr)
	}
	if c.LogFile != "" {
		file := &lumberjack.Logger{
			Filename: c.LogFile, MaxAge: c.LogOptions.MaxAge, MaxSize: c.LogOptions.MaxSize,
			MaxBackups: c.LogOptions.MaxBackups, Compress: c.LogOptions.Compress,
		}
		to = append(to, file)
		done = func() { _ = file.Close() }
	}
	return slog.New(slog.NewTextHandler(io.MultiWriter(to...), &slog.HandlerOptions{Level: level})), done
}
