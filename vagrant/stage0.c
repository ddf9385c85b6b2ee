// SPDX-License-Identifier: Apache-2.0
// The initrd's only program: load modules in the order listed, mount root=, run init= there.
// Debian's own initrd takes 19 seconds under software emulation; this takes none.
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

// The value of KEY= among the kernel's options, or a default; the options stay cut up.
static char *option(char *options, const char *key, char *otherwise) {
  char *found = strstr(options, key);
  return found ? found + strlen(key) : otherwise;
}

int main(int argc, char **argv, char **envp) {
  (void)argc;
  mount("dev", "/dev", "devtmpfs", 0, 0);
  mount("proc", "/proc", "proc", 0, 0);
  int console = open("/dev/console", O_RDWR);
  if (console >= 0) {
    dup2(console, 0);
    dup2(console, 1);
    dup2(console, 2);
  }
  FILE *list = fopen("/mods", "r");
  char line[256];
  while (list && fgets(line, sizeof line, list)) {
    line[strcspn(line, "\n")] = 0;
    int module = open(line, O_RDONLY | O_CLOEXEC);
    if (module < 0 || (syscall(SYS_finit_module, module, "", 0) && errno != EEXIST))
      printf("stage0: %s: %s\n", line, strerror(errno));
    close(module);
  }
  if (list) fclose(list);
  char options[4096] = " ";
  int given = open("/proc/cmdline", O_RDONLY | O_CLOEXEC);
  if (given >= 0 && read(given, options + 1, sizeof options - 2) < 0) perror("stage0: /proc/cmdline");
  close(given);
  unsigned long flags = MS_NOATIME | (strstr(options, " rw") ? 0 : MS_RDONLY);
  char *root = option(options, " root=", "/dev/vda"), *init = option(options, " init=", "/sbin/init");
  root[strcspn(root, " \n")] = init[strcspn(init, " \n")] = 0;
  for (int tries = 0; mount(root, "/sysroot", "ext4", flags, 0); tries++) {
    if (tries > 1000) {
      perror("stage0: mount root");
      return 1;
    }
    usleep(10000);
  }
  mount("/dev", "/sysroot/dev", 0, MS_MOVE, 0);
  mount("/proc", "/sysroot/proc", 0, MS_MOVE, 0);
  if (chdir("/sysroot") || mount(".", "/", 0, MS_MOVE, 0) || chroot(".") || chdir("/")) {
    perror("stage0: root");
    return 1;
  }
  argv[0] = init;
  execve(argv[0], argv, envp);
  perror(argv[0]);
  return 1;
}
