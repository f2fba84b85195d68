// How many files and connections a process may have open.
#ifndef SHIFTADD_SERVICES_BASE_OPEN_FILES_H_
#define SHIFTADD_SERVICES_BASE_OPEN_FILES_H_

namespace shiftadd {

// Raises this process's soft limit of open files to what the hard one allows, 65536 at most; never
// lowers it. The usual soft limit of 1024 is for programs that call select(), which daemons here do
// not: their connections would leave none for blobs and databases. Call in main.
void RaiseOpenFileLimit();

}  // namespace shiftadd

#endif  // SHIFTADD_SERVICES_BASE_OPEN_FILES_H_
